//! `teller receipt verify`: is this receipt what its signer signed? Reads nothing but the file.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use alloy_primitives::Address;
use serde_json::json;
use teller_domain::{SignedReceipt, UnixMillis};

use crate::cli::VerifyReceiptArgs;

/// A receipt has about two thousand bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// The file cannot be read, or is no receipt.
const NO_RECEIPT: u8 = 2;

/// Why a receipt is not good.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is no receipt: {0}")]
    NoReceipt(String),
    #[error("nobody signed it: its signature is over something else, or damaged")]
    Unsigned,
    #[error("it is not as it was signed: the signature is by {found}, and it says {claimed}")]
    Altered { found: Address, claimed: Address },
    #[error("it is signed by {found}, not by {expected}")]
    OtherSigner { found: Address, expected: Address },
}

impl Refused {
    fn no_receipt(why: impl Display) -> Self {
        Self::NoReceipt(why.to_string())
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoReceipt(_) => ExitCode::from(NO_RECEIPT),
            Self::Unsigned | Self::Altered { .. } | Self::OtherSigner { .. } => ExitCode::FAILURE,
        }
    }
}

/// Checks a receipt and prints what it says. The exit code is the verdict.
pub fn verify(args: &VerifyReceiptArgs) -> ExitCode {
    let checked = read(&args.file).and_then(|text| check(&text, args.signer));
    match checked {
        Ok(receipt) => {
            match args.json {
                true => println!("{}", as_json(&receipt)),
                false => print!("{}", page(&receipt, args.signer.is_some())),
            }
            ExitCode::SUCCESS
        }
        Err(refused) => {
            eprintln!("teller: {}: {refused}", args.file.display());
            refused.exit_code()
        }
    }
}

fn read(path: &Path) -> Result<String, Refused> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text),
        false => {
            File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        }
    };
    read.map_err(|error| Refused::NoReceipt(format!("it cannot be read: {error}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Refused::no_receipt("it is larger than 64 KiB"));
    }
    Ok(text)
}

fn check(text: &str, expected: Option<Address>) -> Result<SignedReceipt, Refused> {
    let signed: SignedReceipt = serde_json::from_str(text).map_err(Refused::no_receipt)?;
    let (digest, signature) = signed.signed().map_err(Refused::no_receipt)?;
    let signature =
        teller_schemes::normalize(&signature.to_bytes()).map_err(Refused::no_receipt)?;
    let found = teller_schemes::recover(digest, &signature).ok_or(Refused::Unsigned)?;
    let claimed = signed.signer();
    if found != claimed {
        return Err(Refused::Altered { found, claimed });
    }
    match expected {
        Some(expected) if expected != found => Err(Refused::OtherSigner { found, expected }),
        Some(_) | None => Ok(signed),
    }
}

fn as_json(signed: &SignedReceipt) -> String {
    json!({ "signer": signed.signer(), "receipt": signed.receipt() }).to_string()
}

fn page(signed: &SignedReceipt, is_expected: bool) -> String {
    let receipt = signed.receipt();
    let signer = match is_expected {
        true => format!("{}, as expected", signed.signer()),
        false => format!(
            "{}; is that the facilitator's receipt key?",
            signed.signer()
        ),
    };
    let rows = [
        ("signed by", signer),
        ("settlement", receipt.settlement_id.to_string()),
        ("network", format!("eip155:{}", receipt.chain_id)),
        ("level", receipt.level.as_str().to_owned()),
        ("amount", format!("{} of {}", receipt.amount, receipt.asset)),
        ("authorized", receipt.value.to_string()),
        ("payer", receipt.payer.to_string()),
        ("payee", receipt.payee.to_string()),
        ("authority", receipt.authority.to_string()),
        ("nonce", receipt.nonce.0.to_string()),
        ("transaction", receipt.transaction_hash.to_string()),
        (
            "block",
            format!("{} {}", receipt.block_number, receipt.block_hash),
        ),
        ("log index", receipt.log_index.to_string()),
        ("settled at", UnixMillis(receipt.settled_at_ms).to_utc()),
    ];
    rows.iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use teller_domain::{EcdsaSignature, SettlementReceipt};

    const KEY: [u8; 32] = [7; 32];

    fn message() -> Value {
        json!({
            "settlementId": "0197a3f0-0000-7000-8000-000000000001",
            "chainId": "84532",
            "authority": Address::repeat_byte(1),
            "asset": Address::repeat_byte(2),
            "payer": Address::repeat_byte(3),
            "payee": Address::repeat_byte(4),
            "value": "10000",
            "nonce": alloy_primitives::B256::repeat_byte(5),
            "transactionHash": alloy_primitives::B256::repeat_byte(6),
            "blockNumber": "7",
            "blockHash": alloy_primitives::B256::repeat_byte(8),
            "logIndex": "9",
            "amount": "10000",
            "level": "included",
            "settledAtMs": "1234567890123",
        })
    }

    fn signed_by(key: [u8; 32]) -> (Address, Value) {
        let receipt: SettlementReceipt = serde_json::from_value(message()).unwrap();
        let signature: EcdsaSignature = teller_schemes::sign(receipt.digest(), &key).unwrap();
        let signer = teller_schemes::recover(receipt.digest(), &signature).unwrap();
        let signed = SignedReceipt::new(receipt, signer, signature);
        (signer, serde_json::to_value(signed).unwrap())
    }

    /// `0` signed as asked, `1` not so, `2` no receipt.
    fn verdict(text: &str, expected: Option<Address>) -> u8 {
        match check(text, expected) {
            Ok(_) => 0,
            Err(Refused::NoReceipt(_)) => 2,
            Err(_) => 1,
        }
    }

    #[test]
    fn a_receipt_is_good_for_its_signer_only() {
        let (signer, receipt) = signed_by(KEY);
        let text = receipt.to_string();
        assert_eq!(verdict(&text, None), 0);
        assert_eq!(verdict(&text, Some(signer)), 0);
        assert_eq!(verdict(&text, Some(Address::repeat_byte(1))), 1);
        // Somebody else's signature under the signer's name.
        let (_, mut forged) = signed_by([8; 32]);
        forged["signer"] = json!(signer);
        assert_eq!(verdict(&forged.to_string(), Some(signer)), 1);
    }

    #[test]
    fn a_change_of_any_field_is_seen() {
        let (_, receipt) = signed_by(KEY);
        let fields: Vec<String> = message().as_object().unwrap().keys().cloned().collect();
        for field in &fields {
            let mut altered = receipt.clone();
            let value = altered["message"][field].as_str().unwrap().to_owned();
            let other = match (field.as_str(), value.strip_suffix(|_: char| true)) {
                ("level", _) => "finalized".to_owned(),
                (_, Some(start)) if value.ends_with('2') => format!("{start}3"),
                (_, start) => format!("{}2", start.unwrap()),
            };
            altered["message"][field] = json!(other);
            assert_eq!(verdict(&altered.to_string(), None), 1, "{field}");
            let mut without = receipt.clone();
            without["message"].as_object_mut().unwrap().remove(field);
            assert_eq!(verdict(&without.to_string(), None), 2, "{field}");
        }
        let mut altered = receipt.clone();
        altered["signer"] = json!(Address::repeat_byte(1));
        assert_eq!(verdict(&altered.to_string(), None), 1);
    }

    #[test]
    fn what_is_no_receipt_of_tellers_says_why() {
        let (_, receipt) = signed_by(KEY);
        let change = |pointer: &str, value: Value| {
            let mut changed = receipt.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            changed.to_string()
        };
        for (text, expected) in [
            (String::new(), "EOF"),
            ("garbage".to_owned(), "expected value"),
            ("[]".to_owned(), "expected"),
            ("{}".to_owned(), "missing field"),
            (change("/domain/name", json!("x402 receipt")), "`domain`"),
            (change("/domain/version", json!("2")), "`domain`"),
            (change("/primaryType", json!("Offer")), "`primaryType`"),
            (change("/types/Receipt/0/type", json!("bytes32")), "`types`"),
            (change("/types/Receipt", json!([])), "`types`"),
            (change("/signature", json!("0x12")), "65 bytes"),
            (
                change("/message/chainId", json!(84532)),
                "expected a string",
            ),
            (
                change("/message/blockNumber", json!("-7")),
                "decimal digits",
            ),
            (
                change("/message/value", json!("1e3")),
                "unsigned whole number",
            ),
            (change("/message/level", json!("sure")), "unknown variant"),
        ] {
            let refused = check(&text, None).unwrap_err();
            let said = refused.to_string();
            assert_eq!(verdict(&text, None), 2, "{said}");
            assert!(said.contains(expected), "{said}");
        }
        let mut more = receipt.clone();
        more["message"]["tip"] = json!("1");
        assert_eq!(verdict(&more.to_string(), None), 2);
        let twice = receipt
            .to_string()
            .replacen('{', "{\"signer\":\"0x00\",", 1);
        assert_eq!(verdict(&twice, None), 2);
        let mut high = receipt;
        let low = high["signature"].as_str().unwrap().to_owned();
        let half = format!("{}{}{}", &low[..66], "f".repeat(63), &low[129..]);
        high["signature"] = json!(half);
        assert_eq!(verdict(&high.to_string(), None), 2);
    }
}
