//! Running a target.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::coverage::Coverage;
use crate::{Chance, Shape, corpus, failure};

/// How many executions there are unless a target says otherwise.
const EXECUTIONS: u64 = 10_000;
/// No input grows beyond this.
const LONGEST_INPUT: usize = 64 * 1024;
/// How many inputs are changed further.
const MOST_INPUTS: usize = 4_096;
/// How many changes there are in a row at most.
const MOST_CHANGES: usize = 6;
/// No execution may take longer, on however busy a machine.
const LONGEST_EXECUTION: Duration = Duration::from_secs(20);

/// A target, by its name in `corpus/`.
#[derive(Debug)]
pub struct Fuzz {
    name: &'static str,
    shape: Shape,
    executions: u64,
}

/// What the environment asks for.
struct Settings {
    seed: u64,
    duration: Option<Duration>,
    input: Option<PathBuf>,
}

impl Settings {
    fn read() -> Self {
        let number = |key: &str| {
            let text = std::env::var(key).ok()?;
            let number = text.parse::<u64>();
            Some(number.unwrap_or_else(|_| panic!("{key} must be a number")))
        };
        Self {
            seed: number("TELLER_FUZZ_SEED").unwrap_or(1),
            duration: number("TELLER_FUZZ_SECONDS").map(Duration::from_secs),
            input: std::env::var_os("TELLER_FUZZ_INPUT").map(PathBuf::from),
        }
    }
}

impl Fuzz {
    /// A target whose inputs look like this.
    pub fn new(name: &'static str, shape: Shape) -> Self {
        Self {
            name,
            shape,
            executions: EXECUTIONS,
        }
    }

    /// How often `cargo test` runs it.
    #[must_use]
    pub fn executions(self, executions: u64) -> Self {
        Self { executions, ..self }
    }

    /// Runs it. `target` panics where a property does not hold, and says whether the input was accepted: those are
    /// changed further.
    ///
    /// # Panics
    /// When `target` does, with the smallest input that was found to make it, and how to run that again.
    pub fn run(self, target: impl Fn(&[u8]) -> bool) {
        let settings = Settings::read();
        if let Some(path) = &settings.input {
            target(&corpus::read(path));
            return;
        }
        let mut run = Run {
            fuzz: &self,
            target: &target,
            seed: settings.seed,
            chance: Chance::new(settings.seed),
            coverage: Coverage::start(),
            inputs: Vec::new(),
            executions: 0,
            accepted: 0,
        };
        for input in corpus::committed(self.name) {
            run.execute(&input);
            run.inputs.push(input);
        }
        let committed = run.inputs.len();
        assert!(
            run.accepted > 0,
            "{}: nothing in the corpus is accepted, so that nothing would be shown",
            self.name
        );
        for input in settings
            .duration
            .map(|_| corpus::found(self.name))
            .unwrap_or_default()
        {
            if run.execute(&input).reached_more {
                run.inputs.push(input);
            }
        }
        let started = Instant::now();
        let is_over = |executions| match settings.duration {
            Some(duration) => started.elapsed() >= duration,
            None => executions >= self.executions,
        };
        while !is_over(run.executions) {
            let input = run.changed(committed);
            let found = run.execute(&input);
            if found.reached_more {
                corpus::keep("corpus", self.name, &input);
            }
            if found.reached_more || (found.accepted && run.coverage.edges() == 0) {
                run.keep(input, committed);
            }
        }
        run.report(started.elapsed());
    }
}

struct Run<'f> {
    fuzz: &'f Fuzz,
    target: &'f dyn Fn(&[u8]) -> bool,
    seed: u64,
    chance: Chance,
    coverage: Coverage,
    inputs: Vec<Vec<u8>>,
    executions: u64,
    accepted: u64,
}

struct Found {
    accepted: bool,
    reached_more: bool,
}

impl Run<'_> {
    fn execute(&mut self, input: &[u8]) -> Found {
        self.coverage.clear();
        let started = Instant::now();
        let outcome = failure::outcome(self.target, input);
        let took = started.elapsed();
        let reached_more = self.coverage.grew();
        self.executions += 1;
        match outcome {
            Ok(_) if took > LONGEST_EXECUTION => self.fail(input, &format!("it took {took:?}")),
            Ok(accepted) => {
                self.accepted += u64::from(accepted);
                Found {
                    accepted,
                    reached_more,
                }
            }
            Err(panic) => {
                let smaller = failure::smaller(self.target, input);
                self.fail(&smaller, &panic)
            }
        }
    }

    fn fail(&self, input: &[u8], why: &str) -> ! {
        let path = corpus::keep("failed", self.fuzz.name, input);
        let name = self.fuzz.name;
        panic!(
            "fuzz target {name}, execution {} of seed {}: {why}\nthe input is {} bytes in {}: run the same test with \
             TELLER_FUZZ_INPUT set to that, and put it into crates/fuzz/corpus/{name} with the fix",
            self.executions,
            self.seed,
            input.len(),
            path.display(),
        );
    }

    /// An input made from those there are: every second time from a committed one, so that changes do not only pile up.
    fn changed(&mut self, committed: usize) -> Vec<u8> {
        let from = if self.chance.one_in(2) {
            committed
        } else {
            self.inputs.len()
        };
        let mut input = self.inputs[self.chance.below(from)].clone();
        let other = self.inputs[self.chance.below(self.inputs.len())].clone();
        for _ in 0..=self.chance.below(MOST_CHANGES) {
            self.fuzz.shape.mutate(&mut input, &other, &mut self.chance);
        }
        input.truncate(LONGEST_INPUT);
        input
    }

    /// Takes the place of another one when there are too many, never of a committed one.
    fn keep(&mut self, input: Vec<u8>, committed: usize) {
        if self.inputs.len() < MOST_INPUTS {
            self.inputs.push(input);
        } else {
            let place = committed + self.chance.below(self.inputs.len() - committed);
            self.inputs[place] = input;
        }
    }

    /// Past the test harness, which keeps what a test prints to itself unless it fails.
    fn report(&self, took: Duration) {
        let edges = match self.coverage.edges() {
            0 => String::new(),
            edges => format!(", {edges} edges, {} inputs", self.inputs.len()),
        };
        let line = format!(
            "fuzz {:<20} {:>9} executions, {:>9} accepted{edges}, seed {}, {:.1} s\n",
            self.fuzz.name,
            self.executions,
            self.accepted,
            self.seed,
            took.as_secs_f64(),
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
