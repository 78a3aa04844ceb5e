"""Converting nested state to tensors and JSON, and saving random generators."""

from __future__ import annotations

import base64
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def flatten(state: object, name: str = "state") -> tuple[Any, dict[str, Tensor]]:
    """Separate nested state, for instance ``optimizer.state_dict()``, into JSON and tensors.

    Args:
        state: Nested dicts (with keys of any JSON type), lists, tuples, JSON values, tensors, NumPy
            arrays and scalars, and bytes.
        name: Prefix of the tensors' names.

    Returns:
        JSON data and tensors by name (on the CPU); :func:`unflatten` restores the state bit-equal,
        except that NumPy scalars become Python numbers.

    Raises:
        ValueError: If something cannot be stored; says where it is.
    """
    tensors: dict[str, Tensor] = {}
    return _flatten(state, name, tensors), tensors


def unflatten(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Restore the state that :func:`flatten` separated."""
    if isinstance(data, list):
        return [unflatten(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if _KIND not in data:
        return {key: unflatten(value, tensors) for key, value in data.items()}
    return _UNFLATTEN[data[_KIND]](data["value"], tensors)


_KIND = "__kind__"


def _marked(kind: str, value: object) -> dict[str, object]:
    return {_KIND: kind, "value": value}


def _flatten(value: object, name: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        unique = name if name not in tensors else f"{name}#{len(tensors)}"
        # Always a copy, since safetensors refuses tensors that share memory.
        tensors[unique] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return _marked("tensor", unique)
    if isinstance(value, np.ndarray):
        return _marked("array", _array_to_json(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return _marked("bytes", base64.b64encode(value).decode())
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else _marked("tuple", items)
    if isinstance(value, Mapping):
        pairs = [[k, _flatten(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        plain = all(isinstance(key, str) and key != _KIND for key in value)
        return dict(pairs) if plain else _marked("dict", pairs)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which a checkpoint cannot hold; allowed: None, bool, "
        "int, float, str, bytes, list, tuple, dict, NumPy arrays and torch tensors"
    )


_UNFLATTEN: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda data, _: _array_from_json(data),
    "bytes": lambda data, _: base64.b64decode(data),
    "tuple": lambda items, tensors: tuple(unflatten(items, tensors)),
    "dict": lambda pairs, tensors: {key: unflatten(value, tensors) for key, value in pairs},
}


def _array_to_json(array: np.ndarray[Any, Any]) -> dict[str, object]:
    if array.dtype.hasobject:
        raise ValueError(f"an array of {array.dtype} cannot be held in a checkpoint")
    data = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _array_from_json(data: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    flat = np.frombuffer(base64.b64decode(data["data"]), np.dtype(data["dtype"]))
    return flat.reshape(data["shape"]).copy()


Generators = Mapping[str, np.random.Generator | torch.Generator]


def capture_rng(generators: Generators | None = None) -> dict[str, Any]:
    """Capture the state of all random generators as JSON data.

    Args:
        generators: Further generators by name, in addition to the global ones of Python, NumPy and
            torch (CPU and every GPU).
    """
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in on_gpu],
        "own": {name: _own_state(own) for name, own in (generators or {}).items()},
    }
    return cast("dict[str, Any]", flatten(states)[0])


def restore_rng(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Restore all random generators from a captured state.

    If the number of GPUs has changed, the existing ones are restored, with a warning.

    Raises:
        ValueError: If the named generators differ from the captured ones.
    """
    states, own = unflatten(state, {}), generators or {}
    if set(own) != set(states["own"]):
        raise ValueError(f"generators {sorted(own)} were given, saved were {sorted(states['own'])}")
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    gpus = torch.cuda.device_count()
    if gpus != len(states["cuda"]):
        warnings.warn(
            f"random state was saved with {len(states['cuda'])} GPUs and {gpus} are here; noise "
            "drawn on GPUs will differ from that of an uninterrupted run",
            stacklevel=2,
        )
    for device, gpu_state in enumerate(states["cuda"][:gpus]):
        torch.cuda.set_rng_state(torch.from_numpy(gpu_state), device)
    for name, generator in own.items():
        _restore_own(generator, states["own"][name])


def _own_state(generator: np.random.Generator | torch.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy()
    return generator.bit_generator.state


def _restore_own(generator: np.random.Generator | torch.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(state))
    else:
        generator.bit_generator.state = state
