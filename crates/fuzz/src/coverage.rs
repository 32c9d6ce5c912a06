//! Which places of the program an input reaches. A build with SanitizerCoverage (`scripts/fuzz`) counts them in bytes,
//! one for each edge; any other build says nothing here.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counters are the whole process's: where there are any, targets run one by one.
static ALONE: Mutex<()> = Mutex::new(());

/// What was reached so far.
pub(crate) struct Coverage {
    /// For each edge, the classes of counts that were seen, a bit each.
    seen: Vec<u8>,
    edges: usize,
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Coverage {
    pub(crate) fn start() -> Self {
        Self {
            seen: Vec::new(),
            edges: 0,
            _alone: cfg!(teller_coverage)
                .then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// How many edges were reached.
    pub(crate) fn edges(&self) -> usize {
        self.edges
    }

    pub(crate) fn clear(&mut self) {
        counters::each(|_, counter| *counter = 0);
    }

    /// Whether the execution since [`clear`](Self::clear) reached what none before did, or as often as none before.
    pub(crate) fn grew(&mut self) -> bool {
        let mut grew = false;
        let (seen, edges) = (&mut self.seen, &mut self.edges);
        counters::each(|index, counter| {
            if *counter == 0 {
                return;
            }
            if seen.len() <= index {
                seen.resize(index + 1, 0);
            }
            let class = class(*counter);
            if seen[index] & class == 0 {
                *edges += usize::from(seen[index] == 0);
                seen[index] |= class;
                grew = true;
            }
        });
        grew
    }
}

/// Counts are told apart as 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, and more.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

#[cfg(not(teller_coverage))]
mod counters {
    pub(super) fn each(_look: impl FnMut(usize, &mut u8)) {}
}

#[cfg(teller_coverage)]
mod counters {
    #![allow(
        unsafe_code,
        reason = "LLVM hands over its counters as a start and an end"
    )]

    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    static START: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
    static LENGTH: AtomicUsize = AtomicUsize::new(0);

    /// Called once, before `main`, as everything is linked into one program.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
        START.store(start, Ordering::Relaxed);
        LENGTH.store(stop.addr().saturating_sub(start.addr()), Ordering::Relaxed);
    }

    pub(super) fn each(mut look: impl FnMut(usize, &mut u8)) {
        let (start, length) = (
            START.load(Ordering::Relaxed),
            LENGTH.load(Ordering::Relaxed),
        );
        // Most counters are zero: they are looked at eight at a time.
        for at in (0..length).step_by(8) {
            let wide = (8).min(length - at);
            // SAFETY: within the counters, which live as long as the program. Its other threads may count meanwhile;
            // reads and writes are of single bytes or of eight that are checked again, and a lost count is no harm.
            let all_zero =
                wide == 8 && unsafe { start.add(at).cast::<u64>().read_unaligned() } == 0;
            if all_zero {
                continue;
            }
            for index in at..at + wide {
                // SAFETY: as above.
                let mut counter = unsafe { start.add(index).read_volatile() };
                let before = counter;
                look(index, &mut counter);
                if counter != before {
                    // SAFETY: as above.
                    unsafe { start.add(index).write_volatile(counter) };
                }
            }
        }
    }
}
