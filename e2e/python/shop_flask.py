"""A shop behind the x402 package's middleware for Flask."""

from flask import Flask, jsonify
from werkzeug.serving import make_server
from x402 import x402ResourceServerSync
from x402.http import FacilitatorConfig, HTTPFacilitatorClientSync
from x402.http.middleware.flask import payment_middleware, set_settlement_overrides

import shop

server = shop.sells(x402ResourceServerSync(HTTPFacilitatorClientSync(FacilitatorConfig(url=shop.order["facilitator"]))))

app = Flask(__name__)


@app.get("/v2/exact/<method>")
def exact(method):
    return jsonify(shop.GOODS)


@app.get("/v2/upto/<method>")
def upto(method):
    response = jsonify(shop.GOODS)
    set_settlement_overrides(response, {"amount": shop.CHARGED})
    return response


payment_middleware(app, shop.routes(), server)
door, url = shop.open_door()
shop.opened(url)
make_server("127.0.0.1", 0, app, threaded=True, fd=door.fileno()).serve_forever()
