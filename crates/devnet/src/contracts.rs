//! The contracts of `contracts/`: their bytecode, their addresses on the local chain, and the parts of
//! their interfaces that setting up and testing call.

use alloy_primitives::{Address, Bytes, address};
use serde::Deserialize;

use crate::DevnetError;

/// Where Base Sepolia's USDC is, and here the test dollar's proxy.
pub const TEST_DOLLAR: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
/// What the test dollar's proxy delegates to.
pub const TEST_DOLLAR_IMPLEMENTATION: Address =
    address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d701");
/// The library that the test dollar is linked to; `contracts/build.mjs` names the same address.
pub const SIGNATURE_CHECK: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d702");
/// Where Multicall3 is on every chain.
pub const MULTICALL3: Address = address!("0xcA11bde05977b3631167028862bE2a173976CA11");
/// The account with every role of the test dollar (pauser, blacklister, master minter). Impersonate it.
pub const BOSS: Address = address!("0xb055b055b055b055b055b055b055b055b055b055");
/// The admin of the test dollar's proxy, which can do nothing but upgrade.
pub const PROXY_ADMIN: Address = address!("0xad1100000000000000000000000000000000ad11");

/// The test dollar's EIP-712 name.
pub const NAME: &str = "USDC";
/// The test dollar's EIP-712 version.
pub const VERSION: &str = "2";
/// The test dollar's decimals.
pub const DECIMALS: u8 = 6;

/// A compiled contract of `contracts/src`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// The token's logic.
    TestDollar,
    /// The library it checks signatures with.
    SignatureCheck,
    /// The proxy before it.
    TestDollarProxy,
    /// Our own Multicall3.
    Multicall3,
    /// The lens that verification reads through.
    PaymentLens,
    /// A payer that turned into a contract and means harm; its mode is in storage slot 0.
    HostileWallet,
}

#[derive(Deserialize)]
struct Artifact {
    runtime: Bytes,
}

impl Contract {
    /// The runtime bytecode, as committed under `contracts/artifacts`.
    ///
    /// # Errors
    /// [`DevnetError::Artifact`] when the committed file is broken.
    pub fn runtime(self) -> Result<Bytes, DevnetError> {
        let (name, text) = match self {
            Self::TestDollar => (
                "TestDollar",
                include_str!("../../../contracts/artifacts/TestDollar.json"),
            ),
            Self::SignatureCheck => (
                "SignatureCheck",
                include_str!("../../../contracts/artifacts/SignatureCheck.json"),
            ),
            Self::TestDollarProxy => (
                "TestDollarProxy",
                include_str!("../../../contracts/artifacts/TestDollarProxy.json"),
            ),
            Self::Multicall3 => (
                "Multicall3",
                include_str!("../../../contracts/artifacts/Multicall3.json"),
            ),
            Self::PaymentLens => (
                "PaymentLens",
                include_str!("../../../contracts/artifacts/PaymentLens.json"),
            ),
            Self::HostileWallet => (
                "HostileWallet",
                include_str!("../../../contracts/artifacts/HostileWallet.json"),
            ),
        };
        serde_json::from_str::<Artifact>(text)
            .map(|artifact| artifact.runtime)
            .map_err(|_| DevnetError::Artifact { name })
    }
}

/// The interfaces, as Solidity declares them in `contracts/src`.
#[allow(missing_docs)]
pub mod abi {
    alloy_sol_types::sol! {
        contract TestDollar {
            function initialize(string name, string symbol, uint8 decimals, address boss) external;
            function configureMinter(address minter, uint256 allowed) external returns (bool);
            function mint(address to, uint256 amount) external returns (bool);
            function blacklist(address account) external;
            function pause() external;
            function unpause() external;
            function name() external view returns (string memory);
            function version() external view returns (string memory);
            function decimals() external view returns (uint8);
            function totalSupply() external view returns (uint256);
            function DOMAIN_SEPARATOR() external view returns (bytes32);
            function balanceOf(address account) external view returns (uint256);
            function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
        }

        /// EIP-3009 with the signature as `v, r, s`.
        contract TransferSplit {
            function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
        }

        /// EIP-3009 with the signature as bytes.
        contract TransferBytes {
            function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes memory signature) external;
        }

        /// The signed content of an EIP-3009 transfer.
        #[derive(Debug)]
        struct TransferWithAuthorization {
            address from;
            address to;
            uint256 value;
            uint256 validAfter;
            uint256 validBefore;
            bytes32 nonce;
        }

        contract Multicall3 {
            struct Call3 { address target; bool allowFailure; bytes callData; }
            struct Result { bool success; bytes returnData; }
            function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory returnData);
        }

        contract PaymentLens {
            struct Item { address token; address payer; address payee; bytes32 nonce; bytes call; }
            #[derive(Debug, PartialEq, Eq)]
            struct State { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; uint8 authorization; bool simulated; uint256 gasUsed; bytes revertData; }
            function inspect(Item[] calldata items, uint256 gasPerItem) external returns (uint256 blockNumber, uint256 blockTimestamp, State[] memory states);
            function codeSizes(address[] calldata accounts) external view returns (uint256 blockNumber, uint256[] memory sizes);
        }
    }
}
