"""Compiles each root file of mof/ with pywbem and prints what it understood, one line for each thing.

The test `two_readers_understand_the_same` compares this with what the project's own reader understood.
"""

import pathlib
import sys

import pywbem
import pywbem_mock


def text(value):
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(text(v) for v in value) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def qualifiers(thing):
    return "".join(sorted(f" {q.name}={text(q.value)}" for q in thing.qualifiers.values()))


def kind(thing):
    return thing.type + ("[]" if thing.is_array else "") + (f" to {thing.reference_class}" if thing.reference_class else "")


def print_class(cls):
    print(f"class {cls.classname} : {cls.superclass}")
    for prop in sorted(cls.properties.values(), key=lambda p: p.name):
        print(f"  property {prop.name} {kind(prop)} = {text(prop.value)}{qualifiers(prop)}")
    for method in sorted(cls.methods.values(), key=lambda m: m.name):
        print(f"  method {method.name} {method.return_type}{qualifiers(method)}")
        for parameter in method.parameters.values():
            print(f"    parameter {parameter.name} {kind(parameter)}{qualifiers(parameter)}")


def print_namespace(root):
    # root-virtualization-v2.mof -> root/virtualization/v2
    namespace = root.stem.replace("-", "/")
    connection = pywbem_mock.FakedWBEMConnection(default_namespace=namespace, disable_pull_operations=True)
    connection.compile_mof_file(str(root), namespace=namespace)
    print(f"namespace {namespace}")
    declarations = connection.EnumerateQualifiers(namespace=namespace)
    for q in sorted(declarations, key=lambda q: q.name):
        scopes = ",".join(sorted(s.lower() for s, on in q.scopes.items() if on))
        flavor = f"overridable={text(q.overridable)} tosubclass={text(q.tosubclass)} translatable={text(bool(q.translatable))}"
        print(f"qualifier {q.name} {q.type}{'[]' if q.is_array else ''} = {text(q.value)} {scopes} {flavor}")
    classes = connection.EnumerateClasses(
        namespace=namespace, DeepInheritance=True, LocalOnly=False, IncludeQualifiers=True, IncludeClassOrigin=True
    )
    for cls in sorted(classes, key=lambda c: c.classname):
        print_class(cls)


if __name__ == "__main__":
    for path in sorted(pathlib.Path(sys.argv[1]).glob("root-*.mof")):
        print_namespace(path)
