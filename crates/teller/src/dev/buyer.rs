//! A buyer and a seller in one: signs a payment, has it verified, has it settled, over HTTP like everybody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, hex};
use alloy_signer_local::PrivateKeySigner;
use serde::Deserialize;
use serde_json::{Value, json};
use teller_devnet::DevnetInfo;
use teller_domain::{
    Asset, AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId,
    EcdsaSignature, Payment, UnixSeconds, Validity,
};
use teller_schemes::eip3009::Domain;

use crate::commands::Failure;

/// One cent.
pub const PRICE: u64 = 10_000;
const TIMEOUT_SECONDS: u64 = 60;
/// Longer than a settle call may wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// What became of one purchase.
#[derive(Debug)]
pub enum Purchase {
    /// Verified and settled.
    Settled {
        /// In this transaction.
        transaction: B256,
        /// How long the settle call took.
        took: Duration,
    },
    /// The answer was a "no", or there was none.
    Refused(String),
}

/// The payers of the local chain, and the teller that they pay through.
pub struct Buyers {
    http: reqwest::Client,
    base: String,
    asset: Asset,
    domain: Domain,
    payers: Vec<(Address, B256)>,
    payees: Vec<Address>,
}

impl Buyers {
    /// Buyers with the local chain's keys.
    pub fn new(info: &DevnetInfo, rest: SocketAddr) -> Result<Self, Failure> {
        let asset = Asset {
            chain: ChainId(info.chain_id),
            address: info.asset.address,
            name: info.asset.name.clone(),
            version: info.asset.version.clone(),
            decimals: info.asset.decimals,
        };
        let payers: Result<Vec<_>, _> = info
            .payers
            .iter()
            .map(|key| PrivateKeySigner::from_bytes(key).map(|signer| (signer.address(), *key)))
            .collect();
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build();
        Ok(Self {
            http: http.map_err(|error| Failure::new("the HTTP client cannot be built", error))?,
            base: format!("http://{rest}"),
            domain: Domain::new(&asset),
            asset,
            payers: payers.map_err(|error| Failure::new("a payer's key is none", error))?,
            payees: (0..3)
                .map(|shop| Address::repeat_byte(0xa0 + shop))
                .collect(),
        })
    }

    /// One purchase, the `number`th: payers and payees take turns.
    pub async fn buy(&self, number: u64) -> Purchase {
        let body = match self.request(number) {
            Ok(body) => body,
            Err(failure) => return Purchase::Refused(failure.to_string()),
        };
        match self.post("verify", &body).await {
            Ok(answer) if answer.is_valid => {}
            Ok(answer) => return answer.refusal("verify"),
            Err(error) => return Purchase::Refused(error),
        }
        let asked = Instant::now();
        match self.post("settle", &body).await {
            Ok(answer) if answer.success => match answer.transaction.parse() {
                Ok(transaction) => Purchase::Settled {
                    transaction,
                    took: asked.elapsed(),
                },
                Err(_) => Purchase::Refused("settle: a success without a transaction".to_owned()),
            },
            Ok(answer) => answer.refusal("settle"),
            Err(error) => Purchase::Refused(error),
        }
    }

    async fn post(&self, endpoint: &str, body: &Value) -> Result<Answer, String> {
        let sending = self
            .http
            .post(format!("{}/{endpoint}", self.base))
            .json(body)
            .send();
        let answer = sending
            .await
            .map_err(|_| format!("{endpoint}: no answer"))?;
        let status = answer.status();
        answer
            .json()
            .await
            .map_err(|_| format!("{endpoint}: status {status} without JSON"))
    }

    fn request(&self, number: u64) -> Result<Value, Failure> {
        let (payer, key) = turn(&self.payers, number)?;
        let payee = turn(&self.payees, number)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|error| Failure::new("the clock is before 1970", error))?
            .as_secs();
        let mut payment = Payment {
            key: AuthorizationKey {
                chain: self.asset.chain,
                authority: self.asset.address,
                payer,
                nonce: AuthorizationNonce(B256::random()),
            },
            asset: self.asset.address,
            payee,
            value: AssetAmount::from(PRICE),
            validity: Validity::between(UnixSeconds(0), UnixSeconds(now + TIMEOUT_SECONDS)),
            authorization: Authorization::Eip3009 {
                signature: EcdsaSignature {
                    r: B256::ZERO,
                    s: B256::ZERO,
                    v: 27,
                }
                .into(),
            },
        };
        let signature = teller_schemes::sign(self.domain.digest(&payment), &key)
            .ok_or_else(|| Failure::text("a payer's key is none"))?;
        payment.authorization = Authorization::Eip3009 {
            signature: signature.into(),
        };
        Ok(self.body(&payment, signature))
    }

    fn body(&self, payment: &Payment, signature: EcdsaSignature) -> Value {
        let requirements = json!({
            "scheme": "exact",
            "network": payment.key.chain,
            "amount": payment.value,
            "asset": payment.asset,
            "payTo": payment.payee,
            "maxTimeoutSeconds": TIMEOUT_SECONDS,
            "extra": { "name": self.asset.name, "version": self.asset.version },
        });
        json!({
            "x402Version": 2,
            "paymentPayload": {
                "x402Version": 2,
                "accepted": requirements,
                "payload": {
                    "signature": hex::encode_prefixed(signature.to_bytes()),
                    "authorization": {
                        "from": payment.key.payer,
                        "to": payment.payee,
                        "value": payment.value,
                        "validAfter": payment.validity.valid_after().to_string(),
                        "validBefore": payment.validity.end().to_string(),
                        "nonce": payment.key.nonce,
                    },
                },
            },
            "paymentRequirements": requirements,
        })
    }
}

fn turn<T: Copy>(all: &[T], number: u64) -> Result<T, Failure> {
    let index = number % u64::try_from(all.len()).unwrap_or(u64::MAX).max(1);
    usize::try_from(index)
        .ok()
        .and_then(|index| all.get(index))
        .copied()
        .ok_or_else(|| Failure::text("there is nobody to pay"))
}

/// What of an answer matters here, to either call.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    is_valid: bool,
    success: bool,
    transaction: String,
    invalid_reason: Option<String>,
    error_reason: Option<String>,
    error: Option<String>,
}

impl Answer {
    fn refusal(self, endpoint: &str) -> Purchase {
        let reason = self.invalid_reason.or(self.error_reason).or(self.error);
        let reason = reason.as_deref().unwrap_or("an answer without a reason");
        Purchase::Refused(format!("{endpoint}: {reason}"))
    }
}
