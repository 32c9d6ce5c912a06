// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {PlainToken} from "PlainToken.sol";

/// A plain token that keeps a hundredth of every transfer. Its code may take the place of PlainToken's.
contract FeeToken is PlainToken {
    address private constant COLLECTOR = address(0xfee);

    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value - value / 100);
        super._transfer(from, COLLECTOR, value / 100);
    }
}
