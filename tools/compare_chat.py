#!/usr/bin/env python3
"""Compare chat prompts of `grace run --chat --show-prompt` with Jinja2, set up as transformers does (python3-jinja2, 3.1.6), and optionally with
@huggingface/jinja: tools/compare_chat.py FOLDER... [--grace build/release/grace] [--node DIR], DIR after `npm install @huggingface/jinja` in it.
Each FOLDER is a model's, with its chat template. Every conversation goes through every template; a difference is printed, one error for two
is agreement. Needs nothing from the network."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather <now> & \"here\" in Zürich, 東京", "parameters": {
    "type": "object", "properties": {
        "city": {"type": "string", "description": "a city's name", "enum": ["Zürich", "東京"]},
        "days": {"type": "integer", "description": "how many", "default": 3},
        "scale": {"type": ["string", "null"], "description": "or none"},
        "where": {"type": "object", "description": "a place", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]},
        "tags": {"type": "array", "description": "words", "items": {"type": "string"}, "nullable": True},
        "either": {"description": "one of two", "oneOf": [{"type": "string", "description": "text"}, {"type": "number", "default": 1.5}]}},
    "required": ["city"]}}}
PLAIN = {"type": "function", "function": {"name": "ping", "description": "No arguments", "parameters": {"type": "object", "properties": {}}}}


def call(arguments):
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": arguments}}]}


U = lambda text, **more: {"role": "user", "content": text, **more}
A = lambda text, **more: {"role": "assistant", "content": text, **more}
S = lambda text, **more: {"role": "system", "content": text, **more}
T = lambda text, **more: {"role": "tool", "name": "weather", "tool_call_id": "abcdef123", "content": text, **more}

CONVERSATIONS = {
    "user": [U("Hello")],
    "system": [S("Be brief."), U("Hello")],
    "turns": [U("Hello"), A("Hi! "), U(" How are you?\n")],
    "turns and system": [S("  Be brief.\n"), U("Hello"), A("Hi!"), U("And?"), A("So.")],
    "empty": [U("")],
    "empty system": [S(""), U("x"), A("")],
    "unicode": [S("été 東京 🙂"), U("عربي\u00a0\u2028 <b>&amp;</b> \"q\" 'q' \\ {{ x }} {% y %}\t\u0007"), A("ẞ İ ǆ")],
    "thinking": [U("2+2?"), A("<think>\nfour\n</think>\n\n4"), U("3+3?"), A("<think>six</think>6")],
    "reasoning": [U("2+2?"), A("4", reasoning_content="\nfour\n"), U("3+3?"), A("6", reasoning_content="six", thinking="six")],
    "tool call": [U("Weather?"), call({"city": "Zürich", "days": 1, "x": None, "y": [1.0, True, {"z": "\n"}]}), T("{\"t\": 21.5}"), A("Warm.")],
    "tool call text": [U("Weather?"), call("{\"city\": \"東京\"}"), T("cold"), T("wet"), U("Thanks")],
    "tool pending": [S("Use tools."), U("Weather?"), call({"city": "x"}), T("ok")],
    "null content": [U("Weather?"), {**call("{}"), "content": None}, T("ok"), A("done")],
    "parts": [U([{"type": "text", "text": "Look: "}, {"type": "text", "text": "this"}])],
    "system last": [U("a"), S("b"), U("c")],
    "two users": [U("a"), U("b")],
    "assistant first": [A("a"), U("b")],
    "strange role": [{"role": "critic", "content": "no"}],
    "no content": [{"role": "user"}],
    "number": [U(3), A(1.0), U(True)],
}
VARIANTS = [{}, {"add_generation_prompt": False}, {"tools": [WEATHER, PLAIN]}, {"tools": [PLAIN], "enable_thinking": False, "add_generation_prompt": False},
            {"enable_thinking": True, "reasoning_effort": "high", "builtin_tools": ["browser", "python"]}]


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return env


def load(folder):
    config = json.load(open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8"))
    text = config.get("chat_template")
    if os.path.exists(os.path.join(folder, "chat_template.jinja")):
        text = open(os.path.join(folder, "chat_template.jinja"), encoding="utf-8", newline="").read()
    if isinstance(text, list):
        text = next(entry["template"] for entry in text if entry["name"] == "default")
    special = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            special[name] = token
    return text, special


def reference(env, text, special, messages, variant):
    variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **special, **variant}
    try:
        return env.from_string(text).render(**variables)
    except Exception as error:  # noqa: BLE001: any failure of the reference counts as one
        return error


def ours(grace, folder, messages, variant, scratch):
    path = os.path.join(scratch, "messages.json")
    json.dump(messages, open(path, "w", encoding="utf-8"), ensure_ascii=False)
    command = [grace, "run", "-m", folder, "--chat", "--show-prompt", "--messages", path]
    for key, value in variant.items():
        if key == "tools":
            tools = os.path.join(scratch, "tools.json")
            json.dump(value, open(tools, "w", encoding="utf-8"), ensure_ascii=False)
            command += ["--tools", tools]
        else:
            command += ["--template-arg", f"{key}={json.dumps(value)}"]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout.decode("utf-8") if done.returncode == 0 else RuntimeError(f"{done.returncode}: " + done.stderr.decode("utf-8", "replace").strip())


def huggingface(node, jobs):
    """The same jobs through @huggingface/jinja: a list of texts or of errors."""
    script = """
import { Template } from '@huggingface/jinja';
let text = ''; for await (const chunk of process.stdin) text += chunk;
console.log(JSON.stringify(JSON.parse(text).map(([template, variables]) => {
    try { return { text: new Template(template).render(variables) }; } catch (error) { return { error: String(error) }; }
})));"""
    path = os.path.join(node, "compare_chat_jinja.mjs")
    open(path, "w", encoding="utf-8").write(script)
    done = subprocess.run(["node", path], input=json.dumps(jobs).encode(), capture_output=True, check=True)
    os.unlink(path)
    return [entry["text"] if "text" in entry else RuntimeError(entry["error"]) for entry in json.loads(done.stdout)]


def first_difference(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"at character {at}: {a[max(0, at - 30):at + 40]!r} and {b[max(0, at - 30):at + 40]!r}"


def differs(a, b):
    if isinstance(a, Exception) or isinstance(b, Exception):
        return None if isinstance(a, Exception) and isinstance(b, Exception) else f"{str(a)[:200]!r} and {str(b)[:200]!r}"
    return None if a == b else first_difference(a, b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--grace", default="build/release/grace")
    parser.add_argument("--node", help="a folder whose node_modules has @huggingface/jinja")
    parser.add_argument("--verbose", action="store_true", help="also print what both refuse")
    options = parser.parse_args()
    env, n, n_errors, bad, jobs, results = environment(), 0, 0, 0, [], []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in options.folders:
            text, special = load(folder)
            for name, messages in CONVERSATIONS.items():
                for variant in VARIANTS:
                    expected, found = reference(env, text, special, messages, variant), ours(options.grace, folder, messages, variant, scratch)
                    difference = differs(expected, found)
                    n += 1
                    n_errors += isinstance(expected, Exception)
                    bad += difference is not None
                    if difference:
                        print(f"{folder}: {name} {json.dumps(variant)[:60]}: Jinja2 and grace: {difference}")
                    elif options.verbose and isinstance(expected, Exception):
                        print(f"{folder}: {name}: both refuse: {expected} | {found}")
                    jobs.append([text, {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **special, **variant}])
                    results.append((folder, name, found))
    print(f"{n} prompts of {len(options.folders)} templates, {n_errors} refused by both, {bad} differences from Jinja2 {jinja2.__version__}")
    if options.node:
        pairs = [(f, m, differs(theirs, found)) for (f, m, found), theirs in zip(results, huggingface(options.node, jobs))]
        wrong = [pair for pair in pairs if pair[2]]
        for folder, name, difference in wrong[:40]:
            print(f"{folder}: {name}: @huggingface/jinja and grace: {difference}")
        print(f"{len(wrong)} differences from @huggingface/jinja")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
