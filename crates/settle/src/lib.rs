//! teller-settle
