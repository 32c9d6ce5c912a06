//! teller-loadtest
