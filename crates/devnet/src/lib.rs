//! teller-devnet
