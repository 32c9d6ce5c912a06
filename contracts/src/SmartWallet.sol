// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// A contract wallet of one owner: ERC-1271, calls by its owner, and single calls by the delegation manager that it
/// was made to trust (ERC-7579 executor interface). An account that delegates to this code (EIP-7702) has no owner
/// in storage and is its own.
contract SmartWallet {
    address private owner_; // slot 0
    address public manager; // slot 1

    error NotAllowed();
    error UnsupportedMode();

    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    constructor(address first) payable {
        owner_ = first;
    }

    function owner() public view returns (address) {
        return owner_ == address(0) ? address(this) : owner_;
    }

    /// ERC-1271. Anything but 65 bytes of a low-s signature by the owner is refused, never reverted.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        bytes32 r = bytes32(signature[:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_ORDER) return 0xffffffff;
        address signer = ecrecover(digest, uint8(signature[64]), r, s);
        return signer != address(0) && signer == owner() ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    function setManager(address next) external {
        if (msg.sender != owner() && msg.sender != address(this)) revert NotAllowed();
        manager = next;
    }

    function execute(address target, uint256 value, bytes calldata data) external payable returns (bytes memory) {
        if (msg.sender != owner() && msg.sender != address(this)) revert NotAllowed();
        return _call(target, value, data);
    }

    /// ERC-7579, mode zero only: one call, `target ++ value ++ calldata`.
    function executeFromExecutor(bytes32 mode, bytes calldata execution)
        external
        payable
        returns (bytes[] memory returned)
    {
        if (msg.sender != manager || manager == address(0)) revert NotAllowed();
        if (mode != bytes32(0)) revert UnsupportedMode();
        returned = new bytes[](1);
        returned[0] = _call(address(bytes20(execution[:20])), uint256(bytes32(execution[20:52])), execution[52:]);
    }

    function _call(address target, uint256 value, bytes calldata data) private returns (bytes memory answer) {
        bool ok;
        (ok, answer) = target.call{value: value}(data);
        if (!ok) {
            assembly {
                revert(add(answer, 0x20), mload(answer))
            }
        }
    }

    receive() external payable {}
}
