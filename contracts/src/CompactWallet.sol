// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// A contract wallet that is particular about how its owner signs: in the 64 bytes of ERC-2098, or in 65 whose last is the
/// bare parity. Tests put its code at an account and the owner into its storage.
contract CompactWallet {
    address public owner; // slot 0

    /// ERC-1271. Any other form is refused, never reverted, the one that tokens take of plain accounts among them.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 64 && signature.length != 65) return 0xffffffff;
        bytes32 r = bytes32(signature[:32]);
        uint256 s = uint256(bytes32(signature[32:64]));
        uint8 parity;
        if (signature.length == 64) {
            parity = uint8(s >> 255);
            s = s << 1 >> 1;
        } else {
            parity = uint8(signature[64]);
            if (parity > 1) return 0xffffffff;
        }
        address signer = ecrecover(digest, 27 + parity, r, bytes32(s));
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}
