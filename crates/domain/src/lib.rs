//! teller-domain
