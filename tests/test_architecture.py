"""Packages of mmbuild do not import each other in circles, within a room either; ``make lint`` holds the rooms."""

from graphlib import TopologicalSorter

import grimp


def package_of(module, graph):
    """The package that a module is in; a module next to the rooms stands for itself."""
    is_package = bool(graph.find_children(module))
    return module if is_package or module.count(".") == 1 else module.rpartition(".")[0]


def test_packages_have_an_order():
    graph = grimp.build_graph("mmbuild", cache_dir=None)
    needs = {}
    for module in graph.modules:
        imported = {package_of(name, graph) for name in graph.find_modules_directly_imported_by(module)}
        package = package_of(module, graph)
        needs.setdefault(package, set()).update(imported - {package})
    order = list(TopologicalSorter(needs).static_order())  # raises CycleError, which names a circle
    assert len(order) > 30
