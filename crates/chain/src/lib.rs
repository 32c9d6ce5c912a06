//! teller-chain
