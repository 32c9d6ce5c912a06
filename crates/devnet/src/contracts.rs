//! The contracts of `contracts/`: their bytecode, their addresses on the local chain, and the parts of
//! their interfaces that setting up and testing call.

use alloy_primitives::{Address, B256, Bytes, address};
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
/// Where Permit2 is on every chain that has it; here it is the same code.
pub const PERMIT2: Address = address!("0x000000000022D473030F116dDEE9F6B43aC78BA3");
/// Where `x402ExactPermit2Proxy` is on every chain that has it.
pub const EXACT_PROXY: Address = address!("0x402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// Where `x402UptoPermit2Proxy` is on every chain that has it.
pub const UPTO_PROXY: Address = address!("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
/// A token with neither EIP-3009 nor EIP-2612, which anybody may mint.
pub const PLAIN_TOKEN: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d703");
/// A token with EIP-2612 and without EIP-3009, which anybody may mint.
pub const PERMIT_TOKEN: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d704");
/// The permit token's EIP-712 name.
pub const PERMIT_TOKEN_NAME: &str = "Permit Token";
/// The permit token's EIP-712 version.
pub const PERMIT_TOKEN_VERSION: &str = "1";
/// Makes smart wallets where they were foreseen (ERC-6492).
pub const WALLET_FACTORY: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d705");
/// A smart wallet's code for accounts to delegate to (EIP-7702); itself it is nobody's.
pub const SMART_WALLET: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d706");
/// An ERC-7710 delegation manager. With storage slot 0 set it succeeds and moves nothing.
pub const DELEGATION_MANAGER: Address = address!("0xd7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d707");
/// The CREATE2 deployer that every chain has; anvil brings it.
pub const CREATE2_DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");

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
    /// A contract wallet that takes no signature in the form of plain accounts; its owner is in storage slot 0.
    CompactWallet,
    /// Settles `exact` by Permit2.
    ExactProxy,
    /// Settles `upto` by Permit2.
    UptoProxy,
    /// A token with neither EIP-3009 nor EIP-2612.
    PlainToken,
    /// A token with EIP-2612 and without EIP-3009.
    PermitToken,
    /// A contract wallet of one owner; its owner is in storage slot 0.
    SmartWallet,
    /// Makes smart wallets.
    SmartWalletFactory,
    /// Redeems delegations (ERC-7710).
    DelegationManager,
    /// [`Contract::TestDollar`] that keeps a hundredth of every transfer.
    FeeDollar,
    /// [`Contract::PlainToken`] that keeps a hundredth of every transfer.
    FeeToken,
}

/// The code that makes Permit2, and the salt that puts it where it is.
#[derive(Deserialize)]
struct Permit2 {
    salt: B256,
    creation: Bytes,
}

/// What to send to [`CREATE2_DEPLOYER`] for Permit2 to be at [`PERMIT2`].
///
/// # Errors
/// [`DevnetError::Artifact`] when the committed file is broken.
pub fn permit2_deployment() -> Result<Bytes, DevnetError> {
    let text = include_str!("../../../contracts/vendor/Permit2.json");
    let permit2: Permit2 =
        serde_json::from_str(text).map_err(|_| DevnetError::Artifact { name: "Permit2" })?;
    Ok([permit2.salt.as_slice(), &permit2.creation].concat().into())
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
            Self::FeeDollar => (
                "FeeDollar",
                include_str!("../../../contracts/artifacts/FeeDollar.json"),
            ),
            Self::FeeToken => (
                "FeeToken",
                include_str!("../../../contracts/artifacts/FeeToken.json"),
            ),
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
            Self::CompactWallet => (
                "CompactWallet",
                include_str!("../../../contracts/artifacts/CompactWallet.json"),
            ),
            Self::ExactProxy => (
                "X402ExactPermit2Proxy",
                include_str!("../../../contracts/artifacts/X402ExactPermit2Proxy.json"),
            ),
            Self::UptoProxy => (
                "X402UptoPermit2Proxy",
                include_str!("../../../contracts/artifacts/X402UptoPermit2Proxy.json"),
            ),
            Self::PlainToken => (
                "PlainToken",
                include_str!("../../../contracts/artifacts/PlainToken.json"),
            ),
            Self::PermitToken => (
                "PermitToken",
                include_str!("../../../contracts/artifacts/PermitToken.json"),
            ),
            Self::SmartWallet => (
                "SmartWallet",
                include_str!("../../../contracts/artifacts/SmartWallet.json"),
            ),
            Self::SmartWalletFactory => (
                "SmartWalletFactory",
                include_str!("../../../contracts/artifacts/SmartWalletFactory.json"),
            ),
            Self::DelegationManager => (
                "DelegationManager",
                include_str!("../../../contracts/artifacts/DelegationManager.json"),
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

        /// What all tokens here have in common, and the permit nonce that some have.
        contract Token {
            function mint(address to, uint256 amount) external returns (bool);
            function approve(address spender, uint256 amount) external returns (bool);
            function balanceOf(address account) external view returns (uint256);
            function allowance(address owner, address spender) external view returns (uint256);
            function nonces(address owner) external view returns (uint256);
            function DOMAIN_SEPARATOR() external view returns (bytes32);
        }

        contract SmartWallet {
            function owner() external view returns (address);
            function setManager(address next) external;
            function execute(address target, uint256 value, bytes calldata data) external payable returns (bytes memory);
            function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
        }

        contract SmartWalletFactory {
            function createWallet(address owner, bytes32 salt) external returns (address wallet);
            function walletOf(address owner, bytes32 salt) external view returns (address);
        }

        contract DelegationManager {
            function delegationHash(address delegator, address delegate, uint256 salt) external view returns (bytes32);
        }

        contract Permit2 {
            function DOMAIN_SEPARATOR() external view returns (bytes32);
            function nonceBitmap(address owner, uint256 word) external view returns (uint256);
            function invalidateUnorderedNonces(uint256 word, uint256 mask) external;
        }

        contract PaymentLens {
            struct Item { address token; address payer; address payee; bytes32 nonce; bytes call; }
            #[derive(Debug, PartialEq, Eq)]
            struct State { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; uint8 authorization; bool simulated; uint256 gasUsed; bytes revertData; }
            function inspect(Item[] calldata items, uint256 gasPerItem) external returns (uint256 blockNumber, uint256 blockTimestamp, State[] memory states);
            struct PermitItem { address proxy; address token; address payer; address payee; uint256 nonce; bytes call; }
            #[derive(Debug, PartialEq, Eq)]
            struct PermitState { uint256 codeSize; bool proxyReady; bool balanceRead; uint256 balance; uint256 payeeBalance; uint256 allowance; uint8 nonce; bool simulated; uint256 gasUsed; bytes revertData; }
            function inspectPermits(PermitItem[] calldata items, uint256 gasPerItem) external returns (uint256 blockNumber, uint256 blockTimestamp, PermitState[] memory states);
            struct RedemptionItem { address manager; address token; address payer; address payee; bytes call; }
            #[derive(Debug, PartialEq, Eq)]
            struct RedemptionState { uint256 codeSize; bool balanceRead; uint256 balance; uint256 payeeBalance; bool simulated; uint256 balanceAfter; uint256 payeeBalanceAfter; uint256 gasUsed; bytes revertData; }
            function inspectRedemptions(RedemptionItem[] calldata items, uint256 gasPerItem) external returns (uint256 blockNumber, uint256 blockTimestamp, RedemptionState[] memory states);
            function codeSizes(address[] calldata accounts) external view returns (uint256 blockNumber, uint256[] memory sizes);
        }
    }
}
