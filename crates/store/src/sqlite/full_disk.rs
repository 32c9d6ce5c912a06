//! A file that cannot grow: what SQLite refuses is refused for certain, and nothing of a group is kept that it undid.

use alloy_primitives::{Address, B256, Bytes, U256};
use futures::future::join_all;
use teller_domain::{
    AssetAmount, Authorization, AuthorizationKey, AuthorizationNonce, ChainId, EcdsaSignature,
    Payment, SettlementId, TenantId, UnixSeconds, Validity, X402Version,
};

use super::SqliteLedger;
use crate::{AcceptOutcome, Ledger, NewSettlement, StoreError};

fn new(number: u64) -> NewSettlement {
    let asset = Address::repeat_byte(2);
    let signature = EcdsaSignature {
        r: B256::repeat_byte(4),
        s: B256::repeat_byte(5),
        v: 27,
    };
    NewSettlement {
        id: SettlementId::fresh(),
        tenant: TenantId::new("shop"),
        version: X402Version::V2,
        payment: Payment {
            key: AuthorizationKey {
                chain: ChainId(84532),
                authority: asset,
                payer: Address::repeat_byte(1),
                nonce: AuthorizationNonce(B256::from(U256::from(number))),
            },
            asset,
            payee: Address::repeat_byte(3),
            value: AssetAmount::from(1),
            validity: Validity::between(UnixSeconds(0), UnixSeconds(u64::from(u32::MAX))),
            authorization: Authorization::Eip3009 {
                signature: signature.into(),
            },
        },
        attribution: Bytes::new(),
        queued_by: None,
    }
}

async fn pages(ledger: &SqliteLedger, pragma: &'static str) {
    let set = ledger.writer().unwrap().job(move |connection| {
        Box::pin(async move {
            let set = sqlx::query(pragma).execute(connection).await;
            set.map(|_| ()).map_err(StoreError::of_ledger)
        })
    });
    set.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_for_certain_and_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(directory.path().join("teller.db"))
        .await
        .unwrap();
    // Less than there is means: no more than there is.
    pages(&ledger, "PRAGMA max_page_count = 1").await;
    let mut refused = 0;
    for round in 0..20 {
        let group: Vec<_> = (0..20).map(|number| new(round * 20 + number)).collect();
        let beside = ledger.ping();
        let accepts = join_all(group.iter().map(|new| ledger.accept(new.clone())));
        let (answers, _) = futures::join!(accepts, beside);
        for (new, answer) in group.iter().zip(answers) {
            let row = ledger.settlement(new.id).await.unwrap();
            match answer {
                Ok(AcceptOutcome::Accepted(_)) => assert!(row.is_some()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
                    assert!(row.is_none(), "refused, and there");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "only {refused} were refused");
    pages(&ledger, "PRAGMA max_page_count = 1000000").await;
    ledger.ping().await.unwrap();
    let accepted = ledger.accept(new(1_000_000)).await.unwrap();
    assert!(matches!(accepted, AcceptOutcome::Accepted(_)));
}
