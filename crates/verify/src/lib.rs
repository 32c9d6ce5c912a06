//! teller-verify
