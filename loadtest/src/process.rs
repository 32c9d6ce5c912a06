//! What a process cost, read from /proc (Linux). Elsewhere the figures are left out.

use std::path::PathBuf;

/// Clock ticks a second in `/proc/<pid>/stat`: 100 on every Linux that user space sees (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;
/// How far up a process's ancestors are looked at.
const MAX_GENERATIONS: usize = 8;

/// A process under observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pid: u32,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Its number.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// This process.
    pub fn own() -> Self {
        Self::new(std::process::id())
    }

    /// A process of this name that this process started, itself or through others.
    pub fn descendant_named(name: &str) -> Option<Self> {
        let own = std::process::id();
        let parent_of = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Stat::parse(&text).map(|stat| stat.parent)
        };
        let is_ours = |pid: u32| {
            std::iter::successors(Some(pid), |pid| parent_of(*pid))
                .take(MAX_GENERATIONS)
                .any(|ancestor| ancestor == own)
        };
        std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                stat.is_ok_and(|text| Stat::parse(&text).is_some_and(|stat| stat.name == name))
                    && is_ours(*pid)
            })
            .map(Self::new)
    }

    /// CPU seconds that all its threads have used, in user space and in the kernel.
    pub fn cpu_seconds(self) -> Option<f64> {
        let text = std::fs::read_to_string(self.file("stat")).ok()?;
        Stat::parse(&text).map(|stat| stat.cpu_ticks as f64 / TICKS_A_SECOND)
    }

    /// The most memory it has had resident since its start or the last reset, in MB (10^6 bytes).
    pub fn peak_rss_mb(self) -> Option<f64> {
        let text = std::fs::read_to_string(self.file("status")).ok()?;
        peak_rss(&text)
    }

    /// Forgets the peak, so that the next reading is of one run. Where the kernel refuses, the peak stays that of
    /// the process's whole life.
    pub fn reset_peak_rss(self) {
        let _kept_where_refused = std::fs::write(self.file("clear_refs"), "5");
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    name: &'a str,
    parent: u32,
    cpu_ticks: u64,
}

impl<'a> Stat<'a> {
    /// See proc_pid_stat(5). The name stands in brackets and may itself contain blanks and brackets.
    fn parse(text: &'a str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(9)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Self {
            name,
            parent,
            cpu_ticks: user.saturating_add(system),
        })
    }
}

fn peak_rss(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Lets this process and its children hold `wanted` files and sockets open, as far as the hard limit goes.
///
/// Through util-linux, because the system call needs unsafe code or one more dependency. Where that is missing, the
/// run says itself that it ran out of files.
pub fn allow_open_files(wanted: usize) {
    let limit = format!("--nofile={wanted}:");
    let own = std::process::id().to_string();
    let enough = std::fs::read_to_string("/proc/self/limits").is_ok_and(|limits| {
        limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|line| line.split_ascii_whitespace().next())
            .is_some_and(|soft| soft.parse().is_ok_and(|soft: usize| soft >= wanted))
    });
    if !enough {
        let _best_effort = std::process::Command::new("prlimit")
            .args(["--pid", &own, &limit])
            .output();
    }
}

/// What the figures were measured on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub kernel: String,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown CPU", |line| {
                line.trim_start_matches([' ', '\t', ':'])
            })
            .to_owned();
        let memory_kib: f64 = read("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
            .unwrap_or(0.0);
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            memory_gb: memory_kib * 1024.0 / 1e9,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_the_last_bracket() {
        let line = "77 (a) b) S 12 77 77 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        let stat = Stat {
            name: "a) b",
            parent: 12,
            cpu_ticks: 300,
        };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("77 (a"), None);
    }

    #[test]
    fn the_peak_is_read_in_mb() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t  1000 kB\n";
        assert_eq!(peak_rss(status), Some(1.024));
        assert_eq!(peak_rss("Name:\tkthreadd\n"), None);
    }
}
