"""What exporters of table libraries write in the domain ai.onnx.ml, in operators of the standard set.

Scaler (scikit-learn's StandardScaler and the like): (x - offset) * scale, numbers for each entry of the last axis.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, NodeProto, TensorProto, helper

from lipcert.terms.errors import RefusedModel

DOMAIN = "ai.onnx.ml"


def spell_out(graph: GraphProto, labels: Mapping[str, str]) -> None:
    """Scalers as Sub and Mul, in place. RefusedModel where one does not say both of its lists."""
    nodes = [part for node in graph.node for part in (_scaler(graph, node, labels) if _is_scaler(node) else [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_scaler(node: NodeProto) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, "Scaler")


def _scaler(graph: GraphProto, node: NodeProto, labels: Mapping[str, str]) -> list[NodeProto]:
    label = f"Scaler node {labels.get(node.name, node.name)!r}"
    given = {attribute.name: list(attribute.floats) for attribute in node.attribute}
    if set(given) != {"offset", "scale"} or not given["offset"] or not given["scale"]:
        raise RefusedModel(
            f"{label}: says {', '.join(given) or 'nothing'}, where offset and scale are read", node=label
        )
    if len(given["offset"]) != len(given["scale"]) or len(node.input) != 1 or len(node.output) != 1:
        raise RefusedModel(f"{label}: offset and scale have different lengths", node=label)
    result = node.output[0]
    for name, values in given.items():
        graph.initializer.append(helper.make_tensor(f"{result}__{name}", TensorProto.FLOAT, [len(values)], values))
    moved = f"{result}__moved"
    return [
        helper.make_node("Sub", [node.input[0], f"{result}__offset"], [moved], name=node.name),
        helper.make_node("Mul", [moved, f"{result}__scale"], [result], name=node.name),
    ]
