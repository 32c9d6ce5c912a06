//! Sellers who ask `/settle` until they are told what became of a payment, whatever happens to the facilitator
//! meanwhile, and who remember every word.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use serde_json::Value;

use crate::rest::Http;
use crate::sign::Signed;

/// A facilitator answers within 25 s, or says pending.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// Reasons after which a seller asks again: nothing was decided, or a withdrawn payment may be accepted again.
const OPEN_REASONS: [&str; 4] = [
    "settlement_pending",
    "settlement_withdrawn",
    "unexpected_settle_error",
    "rate_limited",
];

/// How a seller asks.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The facilitator's processes; the seller goes round them, because one may be dead.
    pub urls: Vec<String>,
    /// Which of them is asked first.
    pub first: usize,
    /// Between an answer that decides nothing and the next question.
    pub pause: Duration,
    /// Nobody asks for ever.
    pub at_most: Duration,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// Since the seller's first question.
    pub after: Duration,
}

impl Answer {
    /// Success was told.
    pub fn is_success(&self) -> bool {
        self.status == 200 && self.flag("success")
    }

    /// Why it was not a success.
    pub fn reason(&self) -> &str {
        self.text("errorReason").unwrap_or_default()
    }

    /// The transaction that was named.
    pub fn transaction(&self) -> Option<B256> {
        self.text("transaction")?.parse().ok()
    }

    /// Whether the seller need not ask again.
    pub fn is_final(&self) -> bool {
        self.status == 200 && !OPEN_REASONS.contains(&self.reason())
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field)?.as_str()
    }

    fn flag(&self, field: &str) -> bool {
        self.body.get(field).and_then(Value::as_bool) == Some(true)
    }
}

/// What one seller was told about one payment.
#[derive(Debug, Clone)]
pub struct Told {
    /// Who pays.
    pub payer: Address,
    /// With which authorization.
    pub nonce: B256,
    /// Every answer, in order; questions without an answer are left out.
    pub answers: Vec<Answer>,
    /// From the first question to the last answer.
    pub took: Duration,
}

impl Told {
    /// The answer that ended the asking; `None` for a seller who gave up.
    pub fn last_word(&self) -> Option<&Answer> {
        self.answers.last().filter(|answer| answer.is_final())
    }
}

/// Asks until the answer is final, or the time is up.
pub async fn settle_until_told(http: Http, signed: Signed, asking: Asking) -> Told {
    let start = Instant::now();
    let key = signed.payment.key;
    let mut told = Told {
        payer: key.payer,
        nonce: key.nonce.0,
        answers: Vec::new(),
        took: Duration::ZERO,
    };
    for url in asking.urls.iter().cycle().skip(asking.first) {
        let asked = http
            .post(&format!("{url}/settle"), signed.body.clone(), ANSWER_WITHIN)
            .await;
        told.took = start.elapsed();
        // No answer is what a killed process gives; the next question finds another one, or its successor.
        if let Ok((status, body)) = asked {
            told.answers.push(Answer {
                status,
                body,
                after: told.took,
            });
            if told.last_word().is_some() {
                break;
            }
        }
        if start.elapsed() > asking.at_most {
            break;
        }
        tokio::time::sleep(asking.pause).await;
    }
    told
}
