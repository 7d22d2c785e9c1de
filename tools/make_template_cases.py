#!/usr/bin/env python3
"""Write tests/golden/template/cases.json: small templates of every construct, with what Jinja2 (set up as transformers does) makes of them.
    python3 tools/make_template_cases.py        (python3-jinja2 3.1.6, no network)"""
import json
import os

from compare_chat import environment

V = {"s": "Hello wörld", "n": 3, "r": 2.5, "e": [], "l": [3, 1, 2], "d": {"b": 2, "a": 1, "items": "own", "C": None}, "t": True, "none": None, "m": " \n x y \t", "q": "it's \"q\" \\ \n",
     "people": [{"name": "Bo", "age": 7, "in": {"k": 1}}, {"name": "al", "age": 30, "in": {"k": 2}}, {"name": "Cy", "age": 7}], "words": ["b", "A", "a", "C", "b"],
     "deep": {"x": [1, {"y": [None, True, 1.0, "é\u2028<&>"]}], "empty": {}, "none": []}, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}

CASES = {
    "whitespace": ["a\n{% if t %}\n  b\n{% endif %}\nc\n", "  {% if t %} x {% endif %}  y", "  {%- if t -%}  x  {%- endif -%}  y", "a  {{- s -}}  b", "a\n  {%+ if t %}x{% endif +%}\nb", "x\n\n",
                   "x\r\ny\rz", "{# c #}\nq", "a {#- c -#} b", "  {# c #}  b", "{% raw %}{{ x }}{% endraw %}\nz", "a {%- raw -%} {% x %} {%- endraw -%} b", "{{ '}}' }}{{ {'a': {'b': 1}} }}",
                   "\n{%- for i in l %}\n  {{ i }},\n{%- endfor %}\n", "a\n    {{ s }}\nb", "{{ s }}\n{{ s }}", "{%if t%}x{%endif%}", "{{-1}}", "{{ +1 }}", "a\u00a0{%- if t %}x{% endif %}", "}} %} #} {", "{"],
    "literals": ["{{ 'a\\n\\t\\'\\x41\\u00e9\\U0001F642\\q' }}", "{{ \"b\" 'c' }}", "{{ 1_000 }} {{ 1.5e3 }} {{ 1e20 }} {{ 1e-7 }} {{ 0.1 }} {{ 100000000000000000.0 }}", "{{ true }} {{ False }} {{ none }} {{ None }}",
                 "{{ [1, 'a', none, true, 2.0] }}", "{{ (1,) }} {{ () }} {{ (1, 2) }} {{ 1, 2 }}", "{{ {'a': 1, \"b\": [2]} }} {{ {} }}", "{{ q }} {{ [q] }}", "{{ [s] }}", "{{ ['\\x01\\x7f\\u00a0\\u00ad'] }}",
                 "{{ 'a\\\nb' }}", "{{ '\\101\\7' }}", "{{ 10 ** 2 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}"],
    "operators": ["{{ 1 + 2 * 3 - 4 }}", "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 6 / 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}", "{{ 'a' ~ 1 ~ none ~ [1] }}", "{{ 'ab' * 3 }} {{ [1] * 2 }} {{ 2 * 'x' }}",
                  "{{ [1] + [2] }} {{ 'a' + 'b' }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}", "{{ 1 in l }} {{ 9 not in l }} {{ 'ell' in s }} {{ 'a' in d }} {{ 'z' in nothing }}",
                  "{{ not t or n }} {{ e or 'x' }} {{ n and 'y' }} {{ nothing or 'z' }}", "{{ 'a' if n > 2 else 'b' }} {{ 'a' if n > 5 }}|{{ 1 if 0 else 2 if 0 else 3 }}", "{{ not n == 3 }}", "{{ d == {'a': 1, 'b': 2, 'items': 'own', 'C': none} }}",
                  "{{ (1, 2) == [1, 2] }} {{ none == false }} {{ nothing == nothing2 }}", "{{ true + true }} {{ -t }} {{ +n }}", "{{ 1 + 'a' }}", "{{ nothing + 1 }}", "{{ 1 / 0 }}", "{{ 1 < 'a' }}", "{{ n is number and n is not string }}",
                  "{{ -1 | abs }} {{ (-1) | abs }}", "{{ 'a' ~ 'b' | upper }}", "{{ 1 if t else 2 | string }}", "{{ 1 in 2 }}", "{{ 1 in 'abc' }}", "{{ {'a': 1}['a'] + 1 }}", "{{ 5 - 2 - 1 }} {{ 2 - -2 }}"],
    "access": ["{{ d.a }} {{ d['b'] }}", "{{ d['items'] }}", "{{ d.C }} {{ d.zz }}|", "{{ d.zz.y }}", "{{ nothing.x }}", "{{ nothing }}|", "{{ l[0] }} {{ l[-1] }} {{ l[9] }}|", "{{ s[0] }} {{ s[-4] }} {{ s[99] }}|",
               "{{ s[1:4] }} {{ s[::-1] }} {{ s[-5:] }} {{ s[:-3] }} {{ s[::2] }} {{ s[7:2:-2] }} {{ s[5:1] }}|", "{{ l[1:] }} {{ l[::-1] }} {{ l[:100] }} {{ l[-100:2] }} {{ l[100::-1] }} {{ l[:-100:-1] }}", "{{ (1, 2, 3)[1:] }}", "{{ l[::0] }}",
               "{{ people[0].name }} {{ people[1]['in'].k }}", "{{ messages[-1].role }}", "{{ l.0 }}", "{{ d[none] }}|", "{{ n.x }}|{{ n[0] }}|", "{{ n.x.y }}", "{{ s.nope }}|", "{{ none.x }}|", "{{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }}"],
    "methods": ["{{ s.upper() }} {{ s.lower() }} {{ 'heLLo wORLD x-y'.title() }} {{ 'hELLO'.capitalize() }}", "{{ m.strip() }}|{{ m.lstrip() }}|{{ m.rstrip() }}|", "{{ 'xxaxx'.strip('x') }} {{ 'abcab'.lstrip('ba') }} {{ '\\n\\nq\\n'.strip('\\n') }}|",
                "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ ''.split(',') }} {{ ''.split() }} {{ ' a b c '.split(none, 1) }}", "{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a'.rsplit(',') }}",
                "{{ s.startswith('He') }} {{ s.endswith('x') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('') }}", "{{ 'aXbX'.replace('X', '--') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '.') }}", "{{ ','.join(['a', 'b']) }} {{ ', '.join('xyz') }}",
                "{{ ','.join([1]) }}", "{{ s.find('w') }} {{ s.find('é') }} {{ 'aaa'.count('a') }} {{ 'aaaa'.count('aa') }}", "{{ 'a\\nb\\r\\nc\\n'.splitlines() }}", "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('x') }}", "{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' '.isspace() }}",
                "{{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | list }}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{{ l.index(2) }}", "{{ l.append(1) }}", "{{ s.split('') }}", "{{ s.upper(1) }}", "{{ s.__class__ }}",
                "{{ '<think>a</think>b'.split('</think>')[-1].lstrip('\\n') }}", "{{ 'x'.zzz() }}"],
    "filters": ["{{ m | trim }}|{{ 'xax' | trim('x') }}", "{{ s | length }} {{ l | count }} {{ d | length }} {{ nothing | length }}", "{{ s | upper }} {{ s | lower }} {{ 'a b-c (d)' | title }} {{ 'aB' | capitalize }} {{ nothing | upper }}|",
                "{{ l | join(', ') }} {{ [1, none, 'a'] | join }} {{ people | join('+', attribute='name') }} {{ nothing | join }}|", "{{ 'a-b' | replace('-', '+') }} {{ 'aaa' | replace('a', 'b', 1) }} {{ 121 | replace(1, 3) }}",
                "{{ nothing | default('x') }} {{ '' | default('x') }}|{{ '' | default('x', true) }} {{ none | d('y', boolean=true) }} {{ nothing | default }}|", "{{ l | first }} {{ l | last }} {{ e | first }}|{{ s | last }}", "{{ l | sort }} {{ l | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | join(',') }}",
                "{{ words | unique | list }} {{ words | reverse | list }} {{ s | reverse }}", "{{ l | map('string') | list }} {{ people | map(attribute='in.k') | list }} {{ people | map(attribute='zz', default='-') | join }} {{ words | map('upper') | join('') }}",
                "{{ l | select('greaterthan', 1) | list }} {{ [0, 1, '', 'a'] | select | list }} {{ l | reject('odd') | list }} {{ [1, 0] | reject | list }}", "{{ people | selectattr('age', 'equalto', 7) | map(attribute='name') | list }} {{ people | rejectattr('in', 'defined') | map(attribute='name') | list }} {{ messages | selectattr('role', '==', 'user') | list | length }}",
                "{{ messages | selectattr('role', 'eq', 'user') | list | length }} {{ people | selectattr('in') | list | length }}", "{{ '5' | int }} {{ 'x' | int }} {{ 'x' | int(-1) }} {{ 2.9 | int }} {{ '2.9' | int }} {{ '1.5' | float }} {{ 'z' | float(0.5) }} {{ 3 | float }} {{ ' 7 ' | int }}", "{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(width=1, blank=true) }}|{{ 'a\\nb' | indent('> ') }}",
                "{{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}", "{{ {'b': 1, 'A': 2} | dictsort(true) }} {{ d | items | list }} {{ nothing | items | list }}", "{{ 1.0 | string ~ '!' }} {{ true | string }} {{ none | string }} {{ l | list }} {{ 'ab' | list }} {{ d | list }}",
                "{{ l | min }} {{ l | max }} {{ words | min }} {{ people | max(attribute='age') }} {{ e | max }}|", "{{ s | safe }} {{ -3 | abs }} {{ 2.5 | abs }}", "{{ 1 | zzz }}", "{{ nothing | tojson }}", "{{ s | trim | upper | length }}", "{{ d | first }} {{ 5 | length }}", "{{ l | sort(zz=1) }}", "{{ [1, 'a'] | sort }}"],
    "json": ["{{ deep | tojson }}", "{{ deep | tojson(indent=2) }}", "{{ deep | tojson(ensure_ascii=true) }}", "{{ d | tojson(sort_keys=true) }}", "{{ d | tojson(separators=(',', ':')) }}", "{{ q | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ 1e30 | tojson }} {{ -0.0 | tojson }}",
             "{{ '\\x01\\x1f\\x7f\\b\\f\\u2028/' | tojson }}", "{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}", "{{ [] | tojson(indent=4) }} {{ (1, 2) | tojson }}", "{{ range | tojson }}", "{{ '🙂' | tojson(ensure_ascii=true) }}", "{{ l | tojson(indent=0) }}", "{{ {'a': [1, {'b': []}]} | tojson(4) }}", "{{ {'a': [1, {'b': []}]} | tojson(indent=4) }}"],
    "tests": ["{{ nothing is defined }} {{ n is defined }} {{ nothing is undefined }} {{ d.zz is defined }} {{ d.a is defined }}", "{{ none is none }} {{ n is none }} {{ nothing is none }}", "{{ s is string }} {{ l is string }} {{ d is mapping }} {{ l is mapping }}", "{{ l is iterable }} {{ s is iterable }} {{ n is iterable }} {{ nothing is iterable }} {{ d is sequence }} {{ l is sequence }} {{ n is sequence }}",
              "{{ n is number }} {{ true is number }} {{ r is float }} {{ n is integer }} {{ true is integer }} {{ true is boolean }}", "{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }}", "{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }}", "{{ n is equalto 3 }} {{ n is eq(4) }} {{ n is ne 4 }} {{ n is lt 5 }} {{ n is ge 3 }} {{ n is in l }} {{ 9 is in([1]) }} {{ 9 is not in l }}",
              "{{ 'A1' is upper }} {{ 'a' is upper }} {{ '1' is upper }} {{ 'a' is lower }} {{ none is sameas none }}", "{{ range is callable }} {{ n is callable }}", "{{ n is zzz }}", "{{ not n is string }} {{ n is not string }} {{ (n is string) or t }}", "{{ 'x' if n is string else 'y' }}", "{{ n is defined is true }}"],
    "loops": ["{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}", "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in l if i > 1 %}{{ i }}/{{ loop.length }} {% else %}none{% endfor %}", "{% for i in e %}x{% else %}empty{% endfor %}",
              "{% for i in l if i > 9 %}x{% else %}none{% endfor %}", "{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in range(5) %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{{ loop.index }};{% endfor %}",
              "{% for c in 'aé' %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }} {% endfor %}", "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}", "{% for i in n %}{% endfor %}", "{% for i in nothing %}x{% endfor %}|", "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(3, 1) | list }}",
              "{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}", "{% for i in l %}{% if loop.first %}{% set y = i %}{% endif %}{{ y }}|{% endfor %}", "{% for i in l %}{{ i }}{% endfor %}{{ i }}|", "{% for i in [1] %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% break %}", "{{ range(1000000) | length }}", "{% for m in messages[::-1] %}{{ (messages | length - 1) - loop.index0 }}{{ m.role }}{% endfor %}"],
    "sets": ["{% set x = 1 %}{{ x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set x %}a{{ n }}{% endset %}{{ x }}{{ x | length }}", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set ns = namespace(a=1, b=none) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.zz }}|", "{% set ns = namespace({'x': 1}, y=2) %}{{ ns.x }}{{ ns.y }}", "{% if t %}{% set z = 1 %}{% endif %}{{ z }}", "{% set d.a = 2 %}", "{% set x = 1, 2 %}{{ x }}",
             "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}|", "{% filter upper %}abc{{ n }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aa{% endfilter %}", "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}|", "{% generation %}g{{ n }}{% endgeneration %}", "{% set messages = messages[1:] %}{{ messages | length }}", "{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }}", "{% set ns = namespace() %}{% set ns.x = [1] %}{{ ns.x + [2] }}"],
    "macros": ["{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }}", "{% macro f(a) %}{{ a }}|{{ a is defined }}{% endmacro %}{{ f() }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "{% macro f() %}{% set s = 'in' %}{{ s }}{% endmacro %}{{ f() }} {{ s }}", "{% macro f(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call f(1) %}body{{ n }}{% endcall %}", "{% macro f() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) f() %}{{ a }}+{{ b }}{% endcall %}",
               "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(zz=2) }}", "{% macro f(a=n) %}{{ a }}{% endmacro %}{% set n = 9 %}{{ f() }}", "{% macro f() %}  x  {% endmacro %}[{{ f() | trim }}]", "{% macro f() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}", "{{ g() }}", "{% macro g() %}{% for i in l %}{{ i }}{% endfor %}{% endmacro %}{{ g() | length }}", "{% for i in l %}{% macro h(x) %}{{ x }}{% endmacro %}{{ h(i) }}{% endfor %}", "{{ n() }}", "{% macro f() %}{% if model is not defined %}{% set model = 'M' %}{% endif %}{{ model }}{% endmacro %}{{ f() }}{{ model }}|"],
    "errors": ["{{ raise_exception('no') }}", "{% if %}", "{% if t %}", "{% endif %}", "{{ 'a }}", "{{ (1 }}", "{{ a b }}", "{% zzz %}", "{% for x in %}{% endfor %}", "{{ 1 + }}", "{{ | upper }}", "{# x", "{% raw %} x", "{{ x. }}", "{{ [1, }}", "{% set x %}", "{% macro %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ 1 is }}", "{{ $ }}", "{{", "{%", "{% if t %}{% else %}{% else %}{% endif %}", "{% for i in l %}{% endif %}", "{{ ) }}", "{{ 'a' 'b }}", "{{ '\\x4' }}"],
}


def main():
    env, out, n, errors = environment(), {"variables": V, "groups": {}}, 0, 0
    for group, templates in CASES.items():
        out["groups"][group] = []
        for text in templates:
            entry = {"template": text}
            try:
                entry["text"] = env.from_string(text).render(**V)
            except Exception:  # noqa: BLE001: what the reference refuses
                entry["refused"] = True
                errors += 1
            out["groups"][group].append(entry)
            n += 1
    path = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "template", "cases.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(out, file, ensure_ascii=False, indent=0)
        file.write("\n")
    print(f"{n} templates, {errors} refused")


if __name__ == "__main__":
    main()
