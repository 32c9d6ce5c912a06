"""A shop behind the x402 package's middleware for FastAPI."""

import uvicorn
from fastapi import FastAPI, Response
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import payment_middleware, set_settlement_overrides

import shop

server = shop.sells(x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=shop.order["facilitator"]))))

app = FastAPI()
app.middleware("http")(payment_middleware(shop.routes(), server))


@app.get("/v2/exact/{method}")
async def exact(method: str):
    return shop.GOODS


@app.get("/v2/upto/{method}")
async def upto(method: str, response: Response):
    set_settlement_overrides(response, {"amount": shop.CHARGED})
    return shop.GOODS


door, url = shop.open_door()
shop.opened(url)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[door])
