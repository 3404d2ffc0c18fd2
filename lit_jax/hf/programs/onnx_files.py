"""Programs as ONNX files, in float32 and with weights of 8 bits, each compared with JAX before it is kept."""

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lit_jax import __version__
from lit_jax.hf.programs.onnx_trace import traced
from lit_jax.hf.programs.towers import Program
from lit_jax.models.layers.spec import Compute
from lit_jax.utils.errors import WeightError

FOLDER = "onnx"
OPSET, IR = 20, 9  # ONNX 1.15, of 2023: ONNX Runtime, and its build for browsers, read them from 1.17 on.
LARGEST = 1e-4  # The largest difference from JAX.
_MOST = 1_900_000_000  # The most bytes of constants inside a file; protocol buffers end at 2 GiB.


class ForOnnx(Compute):
    """Computes in the forms for which ONNX has an operation."""

    @property
    def device(self) -> jax.Device:
        """A CPU, so that attention is that of CPUs on every machine."""
        return jax.local_devices(backend="cpu")[0]

    @property
    def on_gpu(self) -> bool:
        """True, so that norms are one function, and patches are multiplied as a matrix."""
        return True


COMPUTE = ForOnnx()


def write(folder: Path, programs: Iterable[Program], *, int8: bool = False) -> None:
    """Writes `folder`/onnx with a file for each program, and with `int8` a second one whose matrices have 8 bits.

    Raises WeightError for a tower that ONNX cannot express, and if ONNX Runtime computes it differently from JAX.
    """
    place = folder / FOLDER
    place.mkdir()
    for program in programs:
        path = place / f"{program.name}.onnx"
        save(path, program)
        check(path, program)
        if int8:
            quantise(path, place / f"{program.name}_quantized.onnx")


def save(path: Path, program: Program) -> None:
    """Writes one program. Constants of more than 1.9 GB go into a file beside it, NAME.onnx_data."""
    import onnx

    model = model_of(program)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= _MOST:
        onnx.save_model(model, str(path))
        return
    beside = f"{path.name}_data"
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=beside
    )


def model_of(program: Program) -> Any:
    """The onnx.ModelProto of a program: int64 texts as tokenizers return them, float32 vectors. Raises WeightError."""
    from onnx import helper, numpy_helper

    try:
        graph, output = traced(program.call, program.params, program.inputs)
    except WeightError as error:
        raise WeightError(
            f"the {program.tower} tower has no ONNX form: {error}; export without --onnx"
        ) from error
    result = graph.node("Identity", output.array)

    def attribute(value: Any) -> Any:
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    renamed = {result: program.output}
    nodes, inputs = [], []
    for name, spec in program.inputs.items():
        kind = np.dtype(np.int64) if spec.dtype == np.int32 else np.dtype(spec.dtype)
        shape = [size if isinstance(size, int) else str(size) for size in spec.shape]
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape))
        if kind == np.int64:  # JAX computes with int32.
            renamed[name] = f"{name}_int32"
            to = helper.np_dtype_to_tensor_dtype(np.dtype(np.int32))
            nodes.append(helper.make_node("Cast", [name], [renamed[name]], to=to))
    kept = graph.needed(result)
    for node in kept:
        attributes = {key: attribute(value) for key, value in node.attributes.items()}
        sources = [renamed.get(name, name) for name in node.inputs]
        nodes.append(
            helper.make_node(node.kind, sources, [renamed.get(node.output, node.output)], **attributes)
        )
    used = dict.fromkeys(itertools.chain.from_iterable(node.inputs for node in kept))
    constants = [
        numpy_helper.from_array(graph.constants[name], name) for name in used if name in graph.constants
    ]
    vectors = helper.make_tensor_value_info(
        program.output,
        helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)),
        [size if isinstance(size, int) else str(size) for size in output.shape],
    )
    made = helper.make_graph(nodes, program.name, inputs, [vectors], constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        made, opset_imports=opset, producer_name="lit_jax", producer_version=__version__
    )
    model.ir_version = IR
    return model


def run(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The vectors that ONNX Runtime computes on a CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {k: v.astype(np.int64) if v.dtype == np.int32 else v for k, v in inputs.items()}
    return session.run(None, given)[0]


def check(path: Path, program: Program) -> float:
    """The largest difference between a file and JAX, for random inputs. Raises WeightError if it is above LARGEST."""
    inputs = program.example()
    got = run(path, inputs)
    want = jax.jit(program.call)(program.params, inputs)
    difference = float(np.abs(got - np.asarray(want)).max())
    if not difference <= LARGEST:
        raise WeightError(
            f"{path.name} differs from JAX by {difference:.1e} in ONNX Runtime; wanted at most {LARGEST:.0e}; "
            "export without --onnx"
        )
    return difference


def quantise(path: Path, output: Path) -> None:
    """Writes the same program with 8-bit matrices and token tables, and activations that are rounded at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # It advises optimising the graph first, which is already done.
    try:
        # Only seven bits of the weights are used, since sums of pairs overflow with all eight on CPUs without VNNI.
        quantize_dynamic(
            path,
            output,
            op_types_to_quantize=["MatMul", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            use_external_data_format=path.with_name(f"{path.name}_data").exists(),
        )
    finally:
        logging.disable(logging.NOTSET)
