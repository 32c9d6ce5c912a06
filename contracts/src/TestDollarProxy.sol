// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// The upgradeable front of the test dollar. It delegates everything to an implementation held in the
/// EIP-1967 slot, and like the real one's proxy it reads the admin slot on every call, because those two
/// cold reads and the cold delegatecall are part of what a payment costs.
contract TestDollarProxy {
    bytes32 private constant IMPLEMENTATION_SLOT = bytes32(uint256(keccak256("eip1967.proxy.implementation")) - 1);
    bytes32 private constant ADMIN_SLOT = bytes32(uint256(keccak256("eip1967.proxy.admin")) - 1);

    event Upgraded(address indexed implementation);

    constructor(address implementation, address admin) {
        _store(IMPLEMENTATION_SLOT, implementation);
        _store(ADMIN_SLOT, admin);
        emit Upgraded(implementation);
    }

    /// The admin speaks only to the proxy, everyone else only to the implementation.
    fallback() external payable {
        if (msg.sender == _load(ADMIN_SLOT)) {
            _administer();
        } else {
            _delegate(_load(IMPLEMENTATION_SLOT));
        }
    }

    /// The admin's only call is `upgradeTo(address)`.
    function _administer() private {
        require(bytes4(msg.data) == bytes4(keccak256("upgradeTo(address)")), "TestDollarProxy: admin may only upgrade");
        address next = abi.decode(msg.data[4:], (address));
        require(next.code.length != 0, "TestDollarProxy: implementation has no code");
        _store(IMPLEMENTATION_SLOT, next);
        emit Upgraded(next);
    }

    function _delegate(address implementation) private {
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), implementation, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(ok) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    function _load(bytes32 slot) private view returns (address value) {
        assembly {
            value := sload(slot)
        }
    }

    function _store(bytes32 slot, address value) private {
        assembly {
            sstore(slot, value)
        }
    }
}
