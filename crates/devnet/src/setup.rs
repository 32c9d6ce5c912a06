//! What makes a bare anvil look like Base Sepolia to a payment.

use alloy_primitives::{Address, B256, U256, b256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};

use crate::DevnetError;
use crate::contracts::abi::TestDollar;
use crate::contracts::{
    BOSS, CREATE2_DEPLOYER, Contract, DECIMALS, DELEGATION_MANAGER, EXACT_PROXY, MULTICALL3, NAME,
    PERMIT_TOKEN, PLAIN_TOKEN, PROXY_ADMIN, SIGNATURE_CHECK, SMART_WALLET, TEST_DOLLAR,
    TEST_DOLLAR_IMPLEMENTATION, UPTO_PROXY, WALLET_FACTORY, permit2_deployment,
};
use crate::fund::{impersonate, send_and_mine, transaction};
use crate::rpc::Rpc;

/// EIP-1967: where a proxy keeps its implementation.
const IMPLEMENTATION_SLOT: B256 =
    b256!("0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");
/// EIP-1967: where a proxy keeps its admin.
const ADMIN_SLOT: B256 =
    b256!("0xb53127684a568b3173ae13b9f8a6016e243e63b6e8ee1178d6a717850b5d6103");
const SETUP_GAS: usize = 1_000_000;
/// Permit2 is 9 KB of code.
const PERMIT2_GAS: usize = 4_000_000;
/// 10,000 ETH.
const SIGNER_BALANCE: &str = "0x21e19e0c9bab2400000";

/// Places the contracts, initializes the test dollar, and makes Multicall3 a minter without limit.
pub(crate) async fn install_contracts(rpc: &Rpc) -> Result<(), DevnetError> {
    let mut codes = Vec::new();
    for (address, contract) in [
        (TEST_DOLLAR_IMPLEMENTATION, Contract::TestDollar),
        (SIGNATURE_CHECK, Contract::SignatureCheck),
        (TEST_DOLLAR, Contract::TestDollarProxy),
        (MULTICALL3, Contract::Multicall3),
        (EXACT_PROXY, Contract::ExactProxy),
        (UPTO_PROXY, Contract::UptoProxy),
        (PLAIN_TOKEN, Contract::PlainToken),
        (PERMIT_TOKEN, Contract::PermitToken),
        (WALLET_FACTORY, Contract::SmartWalletFactory),
        (SMART_WALLET, Contract::SmartWallet),
        (DELEGATION_MANAGER, Contract::DelegationManager),
    ] {
        codes.push(json!([address, contract.runtime()?]));
    }
    rpc.batch("anvil_setCode", codes).await?;
    rpc.batch(
        "anvil_setStorageAt",
        vec![
            pointer(IMPLEMENTATION_SLOT, TEST_DOLLAR_IMPLEMENTATION),
            pointer(ADMIN_SLOT, PROXY_ADMIN),
        ],
    )
    .await?;
    impersonate(rpc, BOSS).await?;
    let initialize = TestDollar::initializeCall {
        name: NAME.to_owned(),
        symbol: NAME.to_owned(),
        decimals: DECIMALS,
        boss: BOSS,
    };
    let minter = TestDollar::configureMinterCall {
        minter: MULTICALL3,
        allowed: U256::MAX,
    };
    let mut transactions: Vec<_> = [initialize.abi_encode(), minter.abi_encode()]
        .iter()
        .enumerate()
        .map(|(nonce, data)| transaction(BOSS, TEST_DOLLAR, nonce, SETUP_GAS, data))
        .collect();
    // Deployed and not placed: the constructor fills in the chain's domain, and the address proves the code.
    let permit2 = permit2_deployment()?;
    let nonce = transactions.len();
    transactions.push(transaction(
        BOSS,
        CREATE2_DEPLOYER,
        nonce,
        PERMIT2_GAS,
        &permit2,
    ));
    send_and_mine(rpc, transactions, "setting up the test dollar and Permit2").await
}

/// Gives each signer ETH for gas.
pub(crate) async fn fund_signers(rpc: &Rpc, signers: &[Address]) -> Result<(), DevnetError> {
    let balances = signers
        .iter()
        .map(|signer| json!([signer, SIGNER_BALANCE]))
        .collect();
    rpc.batch("anvil_setBalance", balances).await?;
    Ok(())
}

fn pointer(slot: B256, target: Address) -> Value {
    json!([TEST_DOLLAR, slot, target.into_word()])
}
