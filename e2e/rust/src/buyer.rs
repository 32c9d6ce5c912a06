//! A buyer with `x402-reqwest`: orders come as lines on standard input, and each is answered by a line.

use std::error::Error;
use std::sync::Arc;

use alloy_signer_local::PrivateKeySigner;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::task::JoinSet;
use x402_chain_eip155::{V1Eip155ExactClient, V2Eip155ExactClient, V2Eip155UptoClient};
use x402_reqwest::{ReqwestWithPayments, ReqwestWithPaymentsBuild, X402Client};

#[derive(Deserialize)]
struct Order {
    id: u64,
    url: String,
    key: String,
    rpc: Url,
}

pub async fn take_orders() -> Result<(), Box<dyn Error>> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut orders = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        let order: Order = serde_json::from_str(&line)?;
        orders.spawn(async move {
            let answer = match buy(&order).await {
                Ok(answer) => answer,
                Err(error) => json!({ "error": format!("{error:?}") }),
            };
            println!("{}", with_id(order.id, answer));
        });
    }
    orders.join_all().await;
    Ok(())
}

async fn buy(order: &Order) -> Result<Value, Box<dyn Error + Send + Sync>> {
    let signer: Arc<PrivateKeySigner> = Arc::new(order.key.parse()?);
    let client = X402Client::new()
        .register(V1Eip155ExactClient::new(signer.clone()))
        .register(V2Eip155ExactClient::new(signer.clone()))
        // It asks the chain whether it has to sign an allowance, too.
        .register(V2Eip155UptoClient::new(signer).with_provider(order.rpc.clone()));
    let paying = reqwest::Client::new().with_payments(client).build();
    let response = paying.get(&order.url).send().await?;
    let status = response.status().as_u16();
    let receipt = receipt(response.headers())?;
    Ok(json!({ "status": status, "receipt": receipt, "body": response.text().await? }))
}

fn receipt(headers: &HeaderMap) -> Result<Option<Value>, Box<dyn Error + Send + Sync>> {
    let header = headers
        .get("payment-response")
        .or_else(|| headers.get("x-payment-response"));
    let Some(header) = header else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(
        &STANDARD.decode(header.as_bytes())?,
    )?))
}

fn with_id(id: u64, mut answer: Value) -> Value {
    answer["id"] = id.into();
    answer
}
