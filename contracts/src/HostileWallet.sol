// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// A payer that turned into a contract and means harm. Tests put its code at an account, or delegate the
/// account to it (EIP-7702), and choose by storage slot 0 what `isValidSignature` does.
contract HostileWallet {
    /// 0 burn all gas, 1 return as much data as the gas buys, 2 revert with as much, 3 accept, 4 refuse.
    uint256 public mode;

    constructor(uint256 mode_) {
        mode = mode_;
    }

    function setMode(uint256 mode_) external {
        mode = mode_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        uint256 chosen = mode;
        if (chosen == 0) {
            assembly {
                invalid()
            }
        }
        if (chosen == 1 || chosen == 2) {
            uint256 size = _affordable() * 32;
            assembly {
                if eq(chosen, 1) { return(0, size) }
                revert(0, size)
            }
        }
        return chosen == 3 ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }

    /// The most words of memory, to a power of two, that three quarters of the gas left pay for.
    function _affordable() private view returns (uint256 words) {
        uint256 budget = gasleft() / 4 * 3;
        words = 1 << 20;
        while (words > 1 && 3 * words + words * words / 512 > budget) {
            words /= 2;
        }
    }

    receive() external payable {}
}
