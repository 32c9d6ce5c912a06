// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

import {SmartWallet} from "./SmartWallet.sol";

/// Makes smart wallets where anybody can know them before they are there (CREATE2), for ERC-6492. Making one
/// that is there already answers with its address.
contract SmartWalletFactory {
    event Created(address indexed wallet, address indexed owner);

    function createWallet(address owner, bytes32 salt) external returns (address wallet) {
        wallet = walletOf(owner, salt);
        if (wallet.code.length != 0) return wallet;
        require(address(new SmartWallet{salt: salt}(owner)) == wallet, "SmartWalletFactory: wrong address");
        emit Created(wallet, owner);
    }

    function walletOf(address owner, bytes32 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(SmartWallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }
}
