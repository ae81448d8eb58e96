//! What this process is, and what it takes of its machine, by the names that Prometheus' client libraries have for it.

use std::{
    fmt, fs,
    io::{self, BufRead as _, BufReader},
    sync::OnceLock,
};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// Registers what the program was built from and by. `commit` is empty unless the build was told it (`PORTCULLIS_COMMIT`).
pub fn register_build(registry: &mut Registry) {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", option_env!("PORTCULLIS_COMMIT").unwrap_or_default()),
        ("rustc", env!("PORTCULLIS_RUSTC")),
    ];
    registry.register("build", "What the gate was built from, and by", Info::new(labels.to_vec()));
}

/// What the system tells of this process when metrics are asked for: on Linux, from `/proc`. What it does not tell is left out.
#[derive(Debug)]
pub struct ProcessMetrics;

/// How long a tick of `/proc` is, how long a page, in seconds and bytes.
#[derive(Clone, Copy, Debug)]
struct Units {
    tick: f64,
    page: f64,
}

impl Units {
    /// Those of this system.
    fn get() -> Self {
        static UNITS: OnceLock<Units> = OnceLock::new();
        let known = |variable, usual: i64| {
            sysconf(variable).ok().flatten().filter(|value| *value > 0).map_or(usual, |value| value)
        };
        *UNITS.get_or_init(|| Self {
            tick: 1.0 / float(known(SysconfVar::CLK_TCK, 100)),
            page: float(known(SysconfVar::PAGE_SIZE, 4096)),
        })
    }
}

/// `/proc/self/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stat {
    cpu_seconds: f64,
    /// Since the system started.
    started_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    /// The name of the program comes second, in parentheses, and may hold anything.
    fn parse(text: &str, units: Units) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The third field is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) * units.tick,
            started_seconds: field(22)? * units.tick,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * units.page,
        })
    }
}

/// The soft limit of open files, of `/proc/self/limits`; `None`: there is none.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// When the system started, in seconds since 1970, of `/proc/stat`.
fn booted() -> Option<f64> {
    let lines = BufReader::new(fs::File::open("/proc/stat").ok()?).lines();
    lines.map_while(io::Result::ok).find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// The one that the directory is read by is not counted.
fn open_fds() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(float(i64::try_from(open).ok()? - 1))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
const fn float(value: i64) -> f64 {
    value as f64
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text, Units::get()));
        let limit = fs::read_to_string("/proc/self/limits").ok().and_then(|text| max_fds(&text));
        if let Some(Stat { cpu_seconds, .. }) = stat {
            let help = "Total user and system CPU time spent";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(cpu_seconds).encode(metric)?;
        }
        let started = stat.zip(booted()).map(|(stat, booted)| booted + stat.started_seconds);
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", stat.map(|stat| stat.resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory", stat.map(|stat| stat.virtual_bytes)),
            ("process_open_fds", "Open file descriptors", open_fds()),
            ("process_max_fds", "How many there may be", limit),
            ("process_start_time_seconds", "When the process started, since 1970", started),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_understood() {
        let units = Units { tick: 0.01, page: 4096.0 };
        let text = "4711 (a) b (c) S 1 2 3 0 -1 4194560 1000 0 10 0 250 50 7 8 20 0 9 0 12345 104857600 2560 18446744073709551615 1 1 0";
        let stat = Stat {
            cpu_seconds: 3.0,
            started_seconds: 123.45,
            virtual_bytes: 104_857_600.0,
            resident_bytes: 10_485_760.0,
        };
        assert_eq!(Stat::parse(text, units), Some(stat));
        assert_eq!(Stat::parse("4711 (cut", units), None);
        assert_eq!(Stat::parse("4711 (short) S 1", units), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             127372               127372               processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files            unlimited            unlimited            files"), None);
        assert_eq!(max_fds(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_found() {
        let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").unwrap(), Units::get()).unwrap();
        assert!(stat.resident_bytes > 1e6 && stat.virtual_bytes > stat.resident_bytes, "{stat:?}");
        let now = crate::clock::Clock::System.now().as_secs();
        let started = booted().unwrap() + stat.started_seconds;
        assert!((float(now) - 86_400.0..=float(now) + 2.0).contains(&started), "{started}");
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        // Other tests open and close theirs meanwhile.
        assert!(open_fds().unwrap() > before - 10.0 && open_fds().unwrap() >= 20.0);
        drop(files);
    }
}
