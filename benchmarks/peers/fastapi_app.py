"""Plain FastAPI: the raw body in, JSON out, the model run inside the event loop. `python fastapi_app.py PORT`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from model import Model

app = FastAPI()
model = Model()


@app.get("/ready")
async def ready() -> bool:
    return True


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return {"probabilities": model.answer(await request.body()).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
