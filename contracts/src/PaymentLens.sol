// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.24;

/// Everything verification wants to know about many payments at one block, in one `eth_call`. Never
/// deployed: a state override puts this code at an address.
///
/// Each item is read and simulated in frames of their own that always revert and hand their findings out as
/// revert data. So no item sees what another one did, not even in warmed storage, and one that reverts,
/// burns its gas or answers with a bomb spoils its own result alone. Whoever calls must bring gas: with
/// `items * (gasPerItem + 500k)` no item can fail the call, whatever it does; a good one takes about 100k.
/// When an item cannot be given what it is entitled to the whole call fails with NotEnoughGas, because
/// starving the later items would make good payments look bad.
contract PaymentLens {
    struct Item {
        address token;
        address payer;
        address payee;
        bytes32 nonce;
        /// Calldata to simulate against the token; empty skips the simulation.
        bytes call;
    }

    struct State {
        uint256 codeSize;
        bool balanceRead;
        uint256 balance;
        uint256 payeeBalance;
        /// 0 unused, 1 used, 2 unreadable.
        uint8 authorization;
        /// True when the simulated call succeeded.
        bool simulated;
        uint256 gasUsed;
        /// At most 256 bytes of what the simulated call reverted with.
        bytes revertData;
    }

    /// A Permit2 permit: the call goes to the proxy. A lens that is put at the facilitator's own address calls as the
    /// facilitator, which `upto` demands.
    struct PermitItem {
        address proxy;
        address token;
        address payer;
        address payee;
        uint256 nonce;
        /// Calldata to simulate against the proxy; empty skips the simulation.
        bytes call;
    }

    struct PermitState {
        uint256 codeSize;
        /// True when the proxy names Permit2.
        bool proxyReady;
        bool balanceRead;
        uint256 balance;
        uint256 payeeBalance;
        uint256 allowance;
        /// 0 unused, 1 used, 2 unreadable.
        uint8 nonce;
        bool simulated;
        uint256 gasUsed;
        bytes revertData;
    }

    /// A delegation (ERC-7710): the call goes to its manager, whose word proves nothing, so that the balances are read
    /// again behind it. A lens that is put at the delegate's address calls as the delegate.
    struct RedemptionItem {
        address manager;
        address token;
        address payer;
        address payee;
        /// Calldata to simulate against the manager; empty skips the simulation.
        bytes call;
    }

    struct RedemptionState {
        uint256 codeSize;
        bool balanceRead;
        uint256 balance;
        uint256 payeeBalance;
        bool simulated;
        /// Balances behind the simulated call; zero where they cannot be read.
        uint256 balanceAfter;
        uint256 payeeBalanceAfter;
        uint256 gasUsed;
        bytes revertData;
    }

    /// The call came without the gas that every item is entitled to.
    error NotEnoughGas();

    uint8 private constant UNREADABLE = 2;
    uint256 private constant READ_GAS = 100_000;
    uint256 private constant FRAME_GAS = 30_000;
    uint256 private constant MAX_REVERT_DATA = 256;
    uint256 private constant READ_ANSWER = 160;
    uint256 private constant PERMIT_READ_ANSWER = 224;
    address private constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;

    function inspect(Item[] calldata items, uint256 gasPerItem)
        external
        returns (uint256 blockNumber, uint256 blockTimestamp, State[] memory states)
    {
        blockNumber = block.number;
        blockTimestamp = block.timestamp;
        states = new State[](items.length);
        for (uint256 i = 0; i < items.length; ++i) {
            _read(items[i], states[i]);
            if (items[i].call.length != 0) {
                (states[i].simulated, states[i].gasUsed, states[i].revertData) =
                    _simulate(items[i].token, items[i].call, gasPerItem);
            }
        }
    }

    /// The same for Permit2 permits.
    function inspectPermits(PermitItem[] calldata items, uint256 gasPerItem)
        external
        returns (uint256 blockNumber, uint256 blockTimestamp, PermitState[] memory states)
    {
        blockNumber = block.number;
        blockTimestamp = block.timestamp;
        states = new PermitState[](items.length);
        for (uint256 i = 0; i < items.length; ++i) {
            _readPermit(items[i], states[i]);
            if (items[i].call.length != 0) {
                (states[i].simulated, states[i].gasUsed, states[i].revertData) =
                    _simulate(items[i].proxy, items[i].call, gasPerItem);
            }
        }
    }

    /// The same for delegations.
    function inspectRedemptions(RedemptionItem[] calldata items, uint256 gasPerItem)
        external
        returns (uint256 blockNumber, uint256 blockTimestamp, RedemptionState[] memory states)
    {
        blockNumber = block.number;
        blockTimestamp = block.timestamp;
        states = new RedemptionState[](items.length);
        for (uint256 i = 0; i < items.length; ++i) {
            _readRedemption(items[i], states[i]);
            if (items[i].call.length != 0) _redeem(items[i], gasPerItem, states[i]);
        }
    }

    /// The code sizes of accounts, for the look at payers when a batch is formed.
    function codeSizes(address[] calldata accounts)
        external
        view
        returns (uint256 blockNumber, uint256[] memory sizes)
    {
        blockNumber = block.number;
        sizes = new uint256[](accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            sizes[i] = accounts[i].code.length;
        }
    }

    // ---- the frames: external so that they can be reverted, and they always are ----

    function readFrame(address token, address payer, address payee, bytes32 nonce) external view {
        uint256 codeSize = payer.code.length;
        uint256 authorization = UNREADABLE;
        bool balanceRead;
        uint256 balance;
        uint256 payeeBalance;
        if (token.code.length != 0) {
            bool ok;
            (balanceRead, balance) = _ask(token, abi.encodeWithSignature("balanceOf(address)", payer));
            (, payeeBalance) = _ask(token, abi.encodeWithSignature("balanceOf(address)", payee));
            (ok, authorization) =
                _ask(token, abi.encodeWithSignature("authorizationState(address,bytes32)", payer, nonce));
            if (!ok || authorization > 1) authorization = UNREADABLE;
        }
        bytes memory answer = abi.encode(codeSize, balanceRead, balance, payeeBalance, authorization);
        assembly {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    function readPermitFrame(address proxy, address token, address payer, address payee, uint256 nonce)
        external
        view
    {
        uint256[7] memory answer;
        answer[0] = payer.code.length;
        (bool ok, uint256 word) = _ask(proxy, abi.encodeWithSignature("PERMIT2()"));
        answer[1] = ok && word == uint160(PERMIT2) ? 1 : 0;
        if (token.code.length != 0) {
            (ok, answer[3]) = _ask(token, abi.encodeWithSignature("balanceOf(address)", payer));
            answer[2] = ok ? 1 : 0;
            (, answer[4]) = _ask(token, abi.encodeWithSignature("balanceOf(address)", payee));
            (, answer[5]) = _ask(token, abi.encodeWithSignature("allowance(address,address)", payer, PERMIT2));
        }
        (ok, word) = _ask(PERMIT2, abi.encodeWithSignature("nonceBitmap(address,uint256)", payer, nonce >> 8));
        answer[6] = ok ? (word >> (nonce & 0xff)) & 1 : UNREADABLE;
        assembly {
            revert(answer, PERMIT_READ_ANSWER)
        }
    }

    /// Reverts with one word of success, one of gas used, then up to 256 bytes of revert data.
    function simulateFrame(address target, bytes calldata call, uint256 gasLimit) external {
        if (target.code.length == 0) {
            assembly {
                mstore(0, 0)
                mstore(0x20, 0)
                revert(0, 0x40)
            }
        }
        _requireGas(gasLimit);
        assembly {
            let input := mload(0x40)
            calldatacopy(input, call.offset, call.length)
            let before := gas()
            let ok := call(gasLimit, target, 0, input, call.length, 0, 0)
            let spent := sub(before, gas())
            let size := 0
            if iszero(ok) {
                size := returndatasize()
                if gt(size, MAX_REVERT_DATA) { size := MAX_REVERT_DATA }
            }
            mstore(input, ok)
            mstore(add(input, 0x20), spent)
            returndatacopy(add(input, 0x40), 0, size)
            revert(input, add(0x40, size))
        }
    }

    /// Like simulateFrame, with the payer's and the payee's balance behind the call between gas and revert data.
    function redeemFrame(RedemptionItem calldata item, uint256 gasLimit) external {
        bool ok;
        uint256 spent;
        bytes memory data;
        if (item.manager.code.length != 0) {
            _requireGas(gasLimit);
            bytes memory input = item.call;
            address manager = item.manager;
            data = new bytes(MAX_REVERT_DATA);
            assembly {
                let before := gas()
                ok := call(gasLimit, manager, 0, add(input, 0x20), mload(input), 0, 0)
                spent := sub(before, gas())
                let size := 0
                if iszero(ok) {
                    size := returndatasize()
                    if gt(size, MAX_REVERT_DATA) { size := MAX_REVERT_DATA }
                }
                returndatacopy(add(data, 0x20), 0, size)
                mstore(data, size)
            }
        }
        (, uint256 payer) = _ask(item.token, abi.encodeWithSignature("balanceOf(address)", item.payer));
        (, uint256 payee) = _ask(item.token, abi.encodeWithSignature("balanceOf(address)", item.payee));
        bytes memory answer = abi.encodePacked(uint256(ok ? 1 : 0), spent, payer, payee, data);
        assembly {
            revert(add(answer, 0x20), mload(answer))
        }
    }

    // ---- inside ----

    function _read(Item calldata item, State memory state) private {
        _readToken(item.token, item.payer, item.payee, item.nonce, state);
    }

    function _readToken(address token, address payer, address payee, bytes32 nonce, State memory state) private {
        uint256 budget = 3 * READ_GAS + 2 * FRAME_GAS;
        _requireGas(budget);
        bytes memory answer = _frame(abi.encodeCall(this.readFrame, (token, payer, payee, nonce)), budget, READ_ANSWER);
        if (answer.length != READ_ANSWER) {
            state.codeSize = payer.code.length;
            state.authorization = UNREADABLE;
            return;
        }
        (state.codeSize, state.balanceRead, state.balance, state.payeeBalance, state.authorization) =
            abi.decode(answer, (uint256, bool, uint256, uint256, uint8));
    }

    function _readPermit(PermitItem calldata item, PermitState memory state) private {
        uint256 budget = 5 * READ_GAS + 2 * FRAME_GAS;
        _requireGas(budget);
        bytes memory answer = _frame(
            abi.encodeCall(this.readPermitFrame, (item.proxy, item.token, item.payer, item.payee, item.nonce)),
            budget,
            PERMIT_READ_ANSWER
        );
        if (answer.length != PERMIT_READ_ANSWER) {
            state.codeSize = item.payer.code.length;
            state.nonce = UNREADABLE;
            return;
        }
        (
            state.codeSize,
            state.proxyReady,
            state.balanceRead,
            state.balance,
            state.payeeBalance,
            state.allowance,
            state.nonce
        ) = abi.decode(answer, (uint256, bool, bool, uint256, uint256, uint256, uint8));
    }

    function _readRedemption(RedemptionItem calldata item, RedemptionState memory state) private {
        State memory read;
        _readToken(item.token, item.payer, item.payee, 0, read);
        state.codeSize = read.codeSize;
        state.balanceRead = read.balanceRead;
        state.balance = read.balance;
        state.payeeBalance = read.payeeBalance;
    }

    function _redeem(RedemptionItem calldata item, uint256 gasPerItem, RedemptionState memory state) private {
        // Beside what _simulate brings: the two balances.
        uint256 budget = gasPerItem + gasPerItem / 32 + 2 * FRAME_GAS + 8 * item.call.length + 2 * READ_GAS;
        _requireGas(budget);
        bytes memory answer = _frame(abi.encodeCall(this.redeemFrame, (item, gasPerItem)), budget, 128 + MAX_REVERT_DATA);
        if (answer.length < 128) revert NotEnoughGas();
        bool ok;
        uint256 spent;
        uint256 payer;
        uint256 payee;
        bytes memory data;
        uint256 size = answer.length - 128;
        // The findings become the revert data in place: its length goes over the fourth word.
        assembly {
            ok := mload(add(answer, 0x20))
            spent := mload(add(answer, 0x40))
            payer := mload(add(answer, 0x60))
            payee := mload(add(answer, 0x80))
            data := add(answer, 0x80)
            mstore(data, size)
        }
        (state.simulated, state.gasUsed, state.revertData) = (ok, spent, data);
        (state.balanceAfter, state.payeeBalanceAfter) = (payer, payee);
    }

    function _simulate(address target, bytes calldata call, uint256 gasPerItem)
        private
        returns (bool ok, uint256 spent, bytes memory data)
    {
        // What the frame needs to be able to pass on gasPerItem in full, and to copy the calldata.
        uint256 budget = gasPerItem + gasPerItem / 32 + FRAME_GAS + 4 * call.length;
        _requireGas(budget);
        bytes memory answer =
            _frame(abi.encodeCall(this.simulateFrame, (target, call, gasPerItem)), budget, 64 + MAX_REVERT_DATA);
        if (answer.length < 64) revert NotEnoughGas();
        uint256 size = answer.length - 64;
        assembly {
            ok := mload(add(answer, 0x20))
            spent := mload(add(answer, 0x40))
        }
        // The findings become the revert data in place: its length goes over the second word.
        assembly {
            data := add(answer, 0x40)
            mstore(data, size)
        }
    }

    /// Calls a frame of this contract and copies at most `cap` bytes of what it reverted with.
    function _frame(bytes memory input, uint256 gasLimit, uint256 cap) private returns (bytes memory answer) {
        answer = new bytes(cap);
        assembly {
            pop(call(gasLimit, address(), 0, add(input, 0x20), mload(input), 0, 0))
            let size := returndatasize()
            if gt(size, cap) { size := cap }
            returndatacopy(add(answer, 0x20), 0, size)
            mstore(answer, size)
        }
    }

    /// One word from a view function, or nothing; more than a word is never copied.
    function _ask(address token, bytes memory input) private view returns (bool ok, uint256 word) {
        assembly {
            ok := staticcall(READ_GAS, token, add(input, 0x20), mload(input), 0, 0x20)
            ok := and(ok, gt(returndatasize(), 0x1f))
            if ok { word := mload(0) }
        }
    }

    /// A call is given at most 63/64 of what is left.
    function _requireGas(uint256 amount) private view {
        if (gasleft() - gasleft() / 64 < amount) revert NotEnoughGas();
    }
}
