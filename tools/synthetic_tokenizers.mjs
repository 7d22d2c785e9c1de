// Small tokenizers with options that released files seldom have, for compare_tokenizers.mjs. Vocabularies are made here: nobody's files.
const words = ['the', 'ing', 'and', 'an', 'er', 'in', 'on', 'th', 'he', 're', 'ab', 'abc', 'aa', 'aaaa', '00', '  ', 'é', 'ना', '日本', 'ss', 'foo', 'x1'];

// Merges that build each word from the left, and the vocabulary of their parts.
function build(symbols, targets) {
    const vocab = new Map(symbols.map((symbol, id) => [symbol, id])), merges = [];
    const add = token => { if (!vocab.has(token)) vocab.set(token, vocab.size); };
    for (const target of targets) {
        const parts = [...target];
        for (let joined = parts[0], i = 1; i < parts.length; i++) {
            add(joined); add(parts[i]);
            if (!merges.some(([a, b]) => a === joined && b === parts[i])) merges.push([joined, parts[i]]);
            joined += parts[i];
            add(joined);
        }
    }
    return { vocab: Object.fromEntries(vocab), merges };
}

const alphabet = Array.from({ length: 256 }, (_, byte) => {
    const printable = b => (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b !== 0xAD);
    let n = 0;
    for (let b = 0; b < byte; b++) n += !printable(b);
    return String.fromCodePoint(printable(byte) ? byte : 256 + n);
});
const inBytes = text => [...Buffer.from(text)].map(byte => alphabet[byte]).join('');
const fallback = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
const letters = [...'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?-\'"(){}\n▁éßñ日本語न']; 

const token = (id, content, more = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });

function make({ bytes, model = {}, added = [], normalizer = null, pre = null, decoder, symbols }) {
    const { vocab, merges } = bytes
        ? build(alphabet, [...words, ...words.map(word => ' ' + word)].map(inBytes))
        : build(symbols ?? ['<unk>', '<s>', '</s>', ...fallback, ...letters], [...words.map(w => w.replaceAll(' ', '▁')), ...words.slice(0, 9).map(w => '▁' + w), '▁▁', '▁▁▁▁']);
    let next = Math.max(...Object.values(vocab)) + 1;
    return {
        version: '1.0', truncation: null, padding: null, normalizer, pre_tokenizer: pre, post_processor: null, decoder,
        added_tokens: added.map(([content, more]) => token(vocab[content] ?? next++, content, more)),
        model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges, ...model },
    };
}

const byteLevel = (more = {}) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true, ...more });
const sequence = (...pretokenizers) => ({ type: 'Sequence', pretokenizers });
const split = (pattern, behavior, invert = false) => ({ type: 'Split', pattern, behavior, invert });
const metaspace = (more = {}) => ({ type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true, ...more });
const spDecoder = (...last) => ({ type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }, ...last] });
const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 };
const normalizers = (...list) => ({ type: 'Sequence', normalizers: list });
const legacy = normalizers({ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' });
const specials = [['<s>'], ['</s>'], ['<unk>']];
const spModel = { byte_fallback: true, unk_token: '<unk>', fuse_unk: true };

export function syntheticTokenizers() {
    const all = {};
    const bytes = (name, spec) => { all['bytes-' + name] = make({ bytes: true, decoder: byteLevel(), pre: byteLevel(), ...spec }); };
    const chars = (name, spec) => { all['chars-' + name] = make({ decoder: spDecoder(strip), model: spModel, added: specials, ...spec }); };
    for (const form of ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase']) bytes(form.toLowerCase(), { normalizer: { type: form } });
    bytes('strip', { normalizer: { type: 'Strip', strip_left: true, strip_right: true } });
    bytes('strip-left', { normalizer: normalizers({ type: 'NFKC' }, { type: 'Strip', strip_left: true, strip_right: false }, { type: 'Lowercase' }) });
    bytes('replace-regex', { normalizer: { type: 'Replace', pattern: { Regex: ' {2,}|\\d+' }, content: '#' } });
    bytes('prefix', { pre: byteLevel({ add_prefix_space: true }) });
    bytes('no-regex', { pre: byteLevel({ use_regex: false }) });
    bytes('digits', { pre: sequence({ type: 'Digits', individual_digits: true }, byteLevel()) });
    bytes('digits-together', { pre: sequence({ type: 'Digits', individual_digits: false }, byteLevel()) });
    bytes('punctuation', { pre: sequence({ type: 'Punctuation', behavior: 'Isolated' }, byteLevel()) });
    bytes('punctuation-contiguous', { pre: sequence({ type: 'Punctuation', behavior: 'Contiguous' }, byteLevel({ add_prefix_space: true })) });
    bytes('whitespace', { pre: sequence({ type: 'Whitespace' }, byteLevel()) });
    bytes('whitespace-split', { pre: sequence({ type: 'WhitespaceSplit' }, byteLevel({ add_prefix_space: true, use_regex: false })) });
    for (const behavior of ['Isolated', 'Removed', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'])
        for (const invert of [false, true]) {
            bytes(`split-${behavior}-${invert}`, { pre: sequence(split({ Regex: '\\d|[aeiou]+' }, behavior, invert), byteLevel({ use_regex: false })) });
            bytes(`split-string-${behavior}-${invert}`, { pre: sequence(split({ String: ' ' }, behavior, invert), byteLevel({ use_regex: false })) });
        }
    bytes('whole', { model: { ignore_merges: true } });
    const added = [['<|a|>'], ['foo', { special: false }], ['ba', { special: false, single_word: true }], ['[L]', { lstrip: true }], ['[R]', { rstrip: true }],
        ['[N]', { normalized: true }], ['  x', { special: false, normalized: true }], ['é', { special: false, normalized: true }], ['ABC', { special: false, normalized: true }]];
    bytes('added', { added });
    bytes('added-normalized', { added, normalizer: normalizers({ type: 'NFD' }, { type: 'Lowercase' }) });
    chars('legacy', { normalizer: legacy });
    chars('legacy-added', { normalizer: legacy, added: [...specials, ['[N]', { normalized: true, special: false }], ['a b', { normalized: true, special: false }], ['[L]', { lstrip: true, rstrip: true }]] });
    chars('unknown', { normalizer: legacy, model: { unk_token: '<unk>' }, symbols: ['<unk>', ...letters] });
    chars('unknown-fused', { normalizer: legacy, model: { unk_token: '<unk>', fuse_unk: true }, symbols: ['<unk>', ...letters] });
    chars('fallback-some', { normalizer: legacy, symbols: ['<unk>', ...fallback.slice(0, 0xE5), ...letters] });
    chars('fallback-some-apart', { normalizer: legacy, model: { ...spModel, fuse_unk: false }, symbols: ['<unk>', ...fallback.slice(0, 0xE5), ...letters] });
    chars('whole', { normalizer: legacy, model: { ...spModel, ignore_merges: true } });
    for (const prepend_scheme of ['always', 'first', 'never'])
        for (const split of [true, false])
            chars(`metaspace-${prepend_scheme}-${split}`, { pre: metaspace({ prepend_scheme, split }), decoder: metaspace({ prepend_scheme, split }) });
    chars('metaspace-digits', { pre: sequence({ type: 'Digits', individual_digits: true }, metaspace()), decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }, strip] } });
    chars('metaspace-sequence', { pre: metaspace({ prepend_scheme: 'first' }), decoder: { type: 'Sequence', decoders: [metaspace({ prepend_scheme: 'first' }), { type: 'ByteFallback' }, { type: 'Fuse' }] } });
    chars('gemma', { normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' }, pre: split({ String: ' ' }, 'MergedWithPrevious'), decoder: spDecoder() });
    return all;
}
