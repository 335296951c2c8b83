"""Runs the pywbem examples of docs/wmi.md, as they stand there, against the hosts of a test: `page_examples.py FACTS.json`."""

import json
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).parents[4] / "docs/wmi.md"


def examples(page):
    """The code of the page; all other lines are empty, so that line numbers are those of the page."""
    lines, inside = [], False
    for line in page.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        facts = json.load(file)
    code = examples(PAGE.read_text(encoding="utf-8"))
    user, password = facts["users"]["administrator"]

    def put(old, new):
        nonlocal code
        if old not in code:
            sys.exit(f"docs/wmi.md: {old} is not in its examples any more; change this script with the page")
        code = code.replace(old, new)

    # What is different here: addresses, names and places.
    put('("admin", "correct horse")', f'("{user}", "{password}")')
    put("/etc/lifeboat/tls/ca.crt", facts["ca"])
    # Both hosts are on one machine: each has a directory of its own.
    put('"/srv/replicas"', f'"{facts["replicas"]}-to-" + other')
    put('find(alpha, "web")', 'find(alpha, "story")')
    put('find(beta, "web")', 'find(beta, "story")')
    put('"RecoveryServerPortNumber"] = pywbem.Uint16(8443)', '"RecoveryServerPortNumber"] = PORT')
    put("pywbem.Uint16(30)", "pywbem.Uint16(1)")
    for host, way in (("alpha", facts["to_alpha"]), ("beta", facts["to_beta"])):
        put(f"https://{host}.example.org:5989", f"https://127.0.0.1:{facts[host]['cimxml']}")
        put(f'= "{host}.example.org"', f'= "{way[0]}"')
        code = re.sub(
            r'"RecoveryConnectionPoint"\] = "{}"\n(.*)= PORT'.format(re.escape(way[0])),
            lambda found, way=way: found.group(0).replace("PORT", f"pywbem.Uint16({way[1]})"),
            code,
        )
        put(f'"{host}.example.org"', f'"{host}.test"')
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    print("ok the examples of the page")


if __name__ == "__main__":
    main()
