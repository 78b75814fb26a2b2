"""A checkpoint in few bits as the tensors that it means: codes and scales are joined when a tensor is read.

What is joined, and how, is one `Scheme` a `quant_method` of config.json. All codes must have their scales, and all
scales their codes, of the right shapes, before anything is read.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from llm_jax.core.table import UserError, choices, lookup
from llm_jax.interop.safetensors import Info, Tensors

SCHEMES = {
    "fp8": "llm_jax.interop.quantized.fp8:scheme",
    "mxfp4": "llm_jax.interop.quantized.mxfp4:scheme",
}
KEY = "quantization_config"
HARMLESS = {"quant_method", "modules_to_not_convert", "modules_to_convert", "ignored_layers", "dequantize"}
EXPONENTS = np.dtype(ml_dtypes.float8_e8m0fnu)
SHOWN = 40


class Shapes(NamedTuple):
    """Of the scales, and of the tensor that codes and scales mean."""

    scales: tuple[int, ...]
    meant: tuple[int, ...]


class Scheme(NamedTuple):
    """How tensors are stored in few bits.

    codes, scales: what follows a tensor's name, for either. stored: says whether a tensor (its name ends so) is codes.
    scale_dtypes: that can be read; uint8 is read as exponents of two. shapes: of a tensor of codes, None where codes
    cannot be so; form says in words how they can. meant: (codes, float32 scales) -> float32 tensor.
    """

    codes: str
    scales: str
    stored: Callable[[Info], bool]
    scale_dtypes: frozenset[np.dtype]
    shapes: Callable[[Info], Shapes | None]
    form: str
    meant: Callable[[np.ndarray, np.ndarray], np.ndarray]


def unpacked(config: Mapping[str, Any], tensors: Tensors) -> tuple[Mapping[str, Any], Tensors]:
    """Return config.json without its `quantization_config`, and the tensors in float32 that were stored as it says.

    Raises:
        UserError: an unknown quant_method or key of it; all scales and codes that do not fit, in one list.
    """
    said = config.get(KEY)
    if said is None:
        return config, tensors
    if not isinstance(said, Mapping):
        raise UserError(f"config.json: {KEY}={said!r:.80} is not an object")
    scheme = lookup(SCHEMES, str(said.get("quant_method")), f"config.json: {KEY}.quant_method")(said)
    return {key: value for key, value in config.items() if key != KEY}, Unpacked(tensors, scheme)


def check(said: Mapping[str, Any], able: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse keys of `quantization_config` that are not known, and values that cannot be read.

    Args:
        said: its keys.
        able: {key: values that can be read; none of them: all}.
    """
    for key, value in said.items():
        if key not in HARMLESS | able.keys() and value is not None:
            raise UserError(f"config.json: {KEY}.{key}={value!r} is not understood, and might change what weights mean")
        if able.get(key) and value not in (None, *able[key]):
            raise UserError(f"config.json: {KEY}.{key}={value!r} cannot be read; {choices(able[key])} can")


class Unpacked:
    """Tensors that join the codes and scales of others."""

    def __init__(self, tensors: Tensors, scheme: Scheme):
        self._tensors, self._scheme = tensors, scheme
        self._codes, shapes, problems = _joined(tensors.infos, scheme)
        if problems:
            more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
            raise UserError("codes and scales do not fit:\n  " + "\n  ".join(problems[:SHOWN] + more))
        taken = {self._scales(name) for name in self._codes}.union(self._codes.values())
        self.infos = {name: info for name, info in tensors.infos.items() if name not in taken}
        self.infos |= {name: Info(shape.meant, np.dtype(np.float32)) for name, shape in shapes.items()}

    def _scales(self, name: str) -> str:
        return name + self._scheme.scales

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, dequantized.

        Raises:
            UserError: a scale of it is no finite number.
        """
        if name not in self._codes:
            return self._tensors.read(name)
        scales = self._tensors.read(self._scales(name))
        scales = (scales.view(EXPONENTS) if scales.dtype == np.uint8 else scales).astype(np.float32)
        if not np.isfinite(scales).all():
            count = int(np.sum(~np.isfinite(scales)))
            raise UserError(
                f"{count} of the {scales.size} scales in {self._scales(name)!r} are not finite; get it anew"
            )
        return self._scheme.meant(self._tensors.read(self._codes[name]), scales)


def _joined(infos: Mapping[str, Info], scheme: Scheme) -> tuple[dict[str, str], dict[str, Shapes], list[str]]:
    """Return {tensor: name of its codes}, {tensor: shapes} and all that does not fit."""
    codes, shapes, problems = dict[str, str](), dict[str, Shapes](), list[str]()
    scales = {name for name in infos if name.endswith(scheme.scales)}
    for stored, info in infos.items():
        if stored in scales or not stored.endswith(scheme.codes) or not scheme.stored(info):
            continue
        name = stored.removesuffix(scheme.codes)
        of, found = name + scheme.scales, scheme.shapes(info)
        if found is None:
            problems.append(f"{stored} is {info.dtype}{list(info.shape)}; its codes are {scheme.form}")
        elif scheme.codes and name in infos:
            problems.append(f"{name} and {stored} are the same tensor")
        elif of not in scales:
            problems.append(f"{stored} is {info.dtype}{list(info.shape)} and has no scales: {of} is missing")
        elif infos[of].dtype not in scheme.scale_dtypes or infos[of].shape != found.scales:
            able = choices(str(dtype) for dtype in scheme.scale_dtypes)
            problems.append(
                f"{of} is {infos[of].dtype}{list(infos[of].shape)}; {stored} {list(info.shape)} needs scales "
                f"{list(found.scales)} of {able}"
            )
        else:
            codes[name], shapes[name] = stored, found
        scales.discard(of)
    problems += [f"{left} is left over: no codes are scaled by it" for left in sorted(scales)]
    return codes, shapes, problems
