// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {TestDollar} from "TestDollar.sol";

/// The test dollar, once it keeps a hundredth of every transfer. Its code may take the place of TestDollar's.
contract FeeDollar is TestDollar {
    address private constant COLLECTOR = address(0xfee);

    function _transfer(address from, address to, uint256 value) internal override {
        super._transfer(from, to, value - value / 100);
        super._transfer(from, COLLECTOR, value / 100);
    }
}
