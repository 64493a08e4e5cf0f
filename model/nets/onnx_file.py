"""A network in an ONNX file, run by onnxruntime: a teacher that has logits alone.

onnxruntime is optional: pip install onnxruntime. It reads a file as data; operators of other libraries are not loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import UserError, first_sentence
from ..types import Output

TOLERANCE = 1e-3  # within which probabilities add up to 1


class OnnxNetwork(nn.Module):
    """A frozen network of one input, images (N, C, H, W), and one output that counts, (N, K).

    Where the output is probabilities, its logits are their logarithms.

    Args:
        path: The file.
        image_size: Height and width of the images, where the file leaves them open.

    Raises:
        UserError: onnxruntime is missing, cannot read the file, or the file is no classifier of images.
    """

    def __init__(self, path: Path, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.path = path
        self._session = _open(path)
        inputs = self._session.get_inputs()
        N, C, *size = inputs[0].shape if len(inputs) == 1 and len(inputs[0].shape) == 4 else (0, "?")
        if not isinstance(C, int):
            shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
            raise UserError(f"{path}: its input should be images (N, C, H, W), got {shapes}")
        self._input = inputs[0].name
        self._batch_size = N if isinstance(N, int) else None  # any where the file leaves it open
        height, width = (given if isinstance(given, int) else own for given, own in zip(size, image_size, strict=True))
        self.image_shape = (C, height, width)
        # Two images that no network should find alike.
        sample = np.linspace(-2, 2, 2 * int(np.prod(self.image_shape)), dtype=np.float32).reshape(2, *self.image_shape)
        output_NK = self._run(sample)
        if output_NK.ndim != 2 or len(output_NK) != 2:
            raise UserError(f"{path}: its first output should be logits (N, K), got {list(output_NK.shape)}")
        self.num_classes = int(output_NK.shape[1])
        self.has_probabilities = bool((output_NK >= 0).all() and (abs(output_NK.sum(axis=1) - 1) < TOLERANCE).all())

    @property
    def metadata(self) -> dict[str, Any]:
        """Values that the file has beside its network; those that are JSON are parsed."""
        found: dict[str, Any] = {}
        for key, text in self._session.get_modelmeta().custom_metadata_map.items():
            try:
                found[key] = json.loads(text)
            except ValueError:
                found[key] = text
        return found

    def forward(self, images: Tensor) -> Output:
        N = len(images)
        if images.is_meta:
            return Output(logits=images.new_empty(N, self.num_classes), embedding=images.new_empty(N, 0))
        output_NK = torch.from_numpy(self._run(images.float().cpu().numpy())).to(images.device)
        if self.has_probabilities:
            output_NK = output_NK.clamp(min=torch.finfo(torch.float32).tiny).log()
        return Output(logits=output_NK, embedding=output_NK[:, :0])

    def _run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        size = self._batch_size or max(1, len(images_NCHW))
        outputs = []
        for start in range(0, len(images_NCHW), size):
            chunk = images_NCHW[start : start + size]
            padding = size - len(chunk) if self._batch_size else 0
            padded = np.concatenate([chunk, np.zeros((padding, *chunk.shape[1:]), chunk.dtype)])
            try:
                output = self._session.run(None, {self._input: np.ascontiguousarray(padded)})[0]
            except Exception as error:  # onnxruntime raises classes of its own, without a common base
                raise UserError(f"{self.path}: onnxruntime cannot run it ({first_sentence(error)})") from None
            outputs.append(output[: len(chunk)])
        output_NK: NDArray[np.float32] = np.concatenate(outputs).astype(np.float32)
        return output_NK


def _open(path: Path) -> Any:
    try:
        import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise UserError(f"{path}: onnxruntime is not installed: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, which are raised, too
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # as above
        raise UserError(f"{path}: onnxruntime cannot read it ({first_sentence(error)})") from None
