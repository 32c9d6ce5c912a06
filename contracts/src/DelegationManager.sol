// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

interface IDelegator {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
    function executeFromExecutor(bytes32 mode, bytes calldata execution) external payable returns (bytes[] memory);
}

/// A small ERC-7710 manager for the local chain. A permission context is
/// `abi.encode(delegator, delegate, salt, signature)`; the delegator's wallet must accept the signature over
/// `delegationHash`, and each delegation is good for one redemption.
contract DelegationManager {
    error WrongDelegate();
    error AlreadyRedeemed();
    error NotSigned();
    error UnequalLengths();

    event Redeemed(address indexed delegator, address indexed delegate, bytes32 delegation);

    /// Slot 0. When not zero, redemptions succeed and move nothing: the manager that PROTOCOL 3.8 warns of.
    uint256 public deceives;
    mapping(bytes32 => bool) public redeemed; // slot 1

    function delegationHash(address delegator, address delegate, uint256 salt) public view returns (bytes32) {
        return keccak256(abi.encode(address(this), block.chainid, delegator, delegate, salt));
    }

    function redeemDelegations(bytes[] calldata contexts, bytes32[] calldata modes, bytes[] calldata executions)
        external
    {
        if (contexts.length != modes.length || modes.length != executions.length) revert UnequalLengths();
        if (deceives != 0) return;
        for (uint256 i = 0; i < contexts.length; ++i) {
            (address delegator, address delegate, uint256 salt, bytes memory signature) =
                abi.decode(contexts[i], (address, address, uint256, bytes));
            if (delegate != msg.sender) revert WrongDelegate();
            bytes32 delegation = delegationHash(delegator, delegate, salt);
            if (redeemed[delegation]) revert AlreadyRedeemed();
            if (IDelegator(delegator).isValidSignature(delegation, signature) != 0x1626ba7e) revert NotSigned();
            redeemed[delegation] = true;
            IDelegator(delegator).executeFromExecutor(modes[i], executions[i]);
            emit Redeemed(delegator, delegate, delegation);
        }
    }
}
