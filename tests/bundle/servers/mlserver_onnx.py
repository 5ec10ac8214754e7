"""A runtime of mlserver for an ONNX file, as a serving team writes one: tensors go to ONNX Runtime unchanged."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):
    async def load(self) -> bool:
        path = await get_model_uri(self._settings, wellknown_filenames=["model.onnx"])
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        request = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [output.name for output in self.session.get_outputs()]
        answers = zip(names, self.session.run(names, request), strict=True)
        outputs = [NumpyCodec.encode_output(name, values) for name, values in answers]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
