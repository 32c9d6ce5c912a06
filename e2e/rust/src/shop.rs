//! A shop behind `x402-axum`, in both versions.

use std::error::Error;

use alloy_primitives::{Address, U256};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use x402_axum::X402Middleware;
use x402_chain_eip155::chain::{AssetTransferMethod, Eip155ChainReference, Eip155TokenDeployment};
use x402_chain_eip155::eip2612_gas_sponsoring::Eip2612GasSponsoring;
use x402_chain_eip155::{V1Eip155Exact, V2Eip155Exact, V2Eip155Upto};
use x402_types::chain::DeployedTokenAmount;

const CHAIN: u64 = 84532;
const PRICE: u64 = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    facilitator: String,
    pay_to: Address,
    asset: Asset,
    ways: Vec<String>,
}

#[derive(Deserialize)]
struct Asset {
    address: Address,
    name: String,
    version: String,
    decimals: u8,
}

pub async fn open(order: &str) -> Result<(), Box<dyn Error>> {
    let order: Order = serde_json::from_str(order)?;
    let x402 = X402Middleware::try_new(&order.facilitator)?;
    let price = |by_permit| order.asset.price(by_permit);
    let serves = |way: &str| order.ways.iter().any(|served| served == way);
    // The older TypeScript buyers take no request for payment without these two.
    let first = x402
        .with_price_tag(V1Eip155Exact::price_tag(order.pay_to, price(false)))
        .with_description("Weather".to_owned())
        .with_mime_type("application/json".to_owned());
    let second = x402.with_price_tag(V2Eip155Exact::price_tag(order.pay_to, price(false)));
    let mut app = Router::new()
        .route("/v1/exact/eip3009", get(goods).layer(first))
        .route("/v2/exact/eip3009", get(goods).layer(second));
    if serves("permit2") {
        let tag = V2Eip155Exact::price_tag(order.pay_to, price(true));
        app = app.route(
            "/v2/exact/permit2",
            get(goods).layer(x402.with_price_tag(tag)),
        );
    }
    if serves("eip2612 for exact") {
        let tag = V2Eip155Exact::price_tag(order.pay_to, price(true));
        let sponsored = x402
            .with_price_tag(tag)
            .with_extension(Eip2612GasSponsoring::server());
        app = app.route("/v2/exact/eip2612", get(goods).layer(sponsored));
    }
    if serves("eip2612 for upto") {
        let tag = V2Eip155Upto::price_tag(order.pay_to, price(true));
        let sponsored = x402
            .with_price_tag(tag)
            .with_extension(Eip2612GasSponsoring::server());
        app = app.route("/v2/upto/eip2612", get(goods).layer(sponsored));
    }
    if serves("upto") {
        // This package has no way to charge less than it asked permission for.
        let tag = V2Eip155Upto::price_tag(order.pay_to, price(true));
        app = app.route(
            "/v2/upto/permit2",
            get(goods).layer(x402.with_price_tag(tag)),
        );
    }
    let door = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "{}",
        json!({ "url": format!("http://{}", door.local_addr()?) })
    );
    axum::serve(door, app).await?;
    Ok(())
}

async fn goods() -> Json<Value> {
    Json(json!({ "weather": "sunny" }))
}

impl Asset {
    fn price(&self, by_permit: bool) -> DeployedTokenAmount<U256, Eip155TokenDeployment> {
        let (name, version) = (self.name.clone(), self.version.clone());
        let token = Eip155TokenDeployment {
            chain_reference: Eip155ChainReference::new(CHAIN),
            address: self.address,
            decimals: self.decimals,
            transfer_method: match by_permit {
                true => AssetTransferMethod::Permit2 { name, version },
                false => AssetTransferMethod::Eip3009 { name, version },
            },
        };
        token.amount(PRICE)
    }
}
