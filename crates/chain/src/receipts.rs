//! Receipts of transactions, as one endpoint gives them.

use alloy_primitives::B256;

use crate::endpoint::Endpoint;
use crate::sightings::{RECEIPT, Seen, TRANSACTION, seen};
use crate::wire::{WirePrice, WireReceipt};
use crate::{CallError, NodeError, TxReceipt};

impl Endpoint {
    /// The receipts of these transactions, in their order; `None` for what is not mined. Where a receipt does not say
    /// what was paid for gas, the transaction does.
    pub(crate) async fn receipts(&self, hashes: &[B256]) -> Result<Seen<TxReceipt>, CallError> {
        let Seen {
            each: receipts,
            unsearched,
        } = seen::<WireReceipt>(self, RECEIPT, hashes).await?;
        let unpriced: Vec<_> = receipts
            .iter()
            .flatten()
            .filter(|receipt| receipt.price().is_none())
            .map(|receipt| (receipt.transaction(),))
            .collect();
        let prices: Vec<Option<WirePrice>> = self.batch(TRANSACTION, &unpriced).await?;
        let mut prices = prices.into_iter();
        let priced = receipts.into_iter().map(|receipt| {
            let Some(receipt) = receipt else {
                return Ok(None);
            };
            let price = match receipt.price() {
                Some(price) => Some(price),
                None => prices.next().flatten().and_then(|price| price.paid()),
            };
            let price = price.ok_or(NodeError::BadAnswer("a receipt without a price"))?;
            Ok(Some(receipt.at(price)))
        });
        let each = priced.collect::<Result<_, CallError>>()?;
        Ok(Seen { each, unsearched })
    }
}
