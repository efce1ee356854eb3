"""MLServer: a custom runtime with its adaptive batching; base64 in the protocol's JSON. `mlserver start FOLDER`."""

import base64

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from model import Model


class Answers(MLModel):
    async def load(self) -> bool:
        self.model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        contents = payload.inputs[0].data
        bodies = [base64.b64decode(content) for content in contents]
        output = NumpyCodec.encode_output("probabilities", self.model.answer_all(bodies))
        return InferenceResponse(model_name=self.name, outputs=[output])
