//! The figures as metrics, in the text format of Prometheus and in that of OpenMetrics.
//!
//! All families are always there, with their help and type, also before the job has begun. The
//! figures are those of this process: the sum over all processes is the cluster's.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::epoch::Epoch;
use crate::meters::{Meters, Outcome, OutputOp, STAGE_BOUNDS, SourceMeter, Stage, system};

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsFormat {
    /// The text format of Prometheus.
    Prometheus,
    /// The text format of OpenMetrics.
    OpenMetrics,
}

impl MetricsFormat {
    /// Returns the format that the values of `Accept` ask for: OpenMetrics only if it is named and
    /// not less wanted than plain text.
    pub fn accepted<'a>(accepts: impl Iterator<Item = &'a str>) -> MetricsFormat {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accepts.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            let weight = weight.unwrap_or(1.0);
            match name.as_str() {
                "application/openmetrics-text" => open = f32::max(open, weight),
                "text/plain" => plain = f32::max(plain, weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain {
            MetricsFormat::OpenMetrics
        } else {
            MetricsFormat::Prometheus
        }
    }

    /// Returns the value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            MetricsFormat::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            }
        }
    }
}

/// Returns the figures in a format. Nothing is kept from one scrape to the next: the registry is
/// made for it, and reads the figures of the run.
pub fn encode(meters: &Meters, format: MetricsFormat) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(RunCollector(meters.clone())));
    let mut encoded = String::with_capacity(16 << 10);
    match format {
        MetricsFormat::Prometheus => prometheus_text::encode(&mut encoded, &registry)?,
        MetricsFormat::OpenMetrics => text::encode(&mut encoded, &registry)?,
    }
    Ok(encoded)
}

/// Reads the figures of a run at each scrape. Counters never go back within a run: they begin at 0
/// with the process.
#[derive(Debug)]
struct RunCollector(Meters);

impl Collector for RunCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut families = Families(&mut encoder);
        encode_job(&self.0, &mut families)?;
        encode_sources(&self.0, &mut families)?;
        encode_epochs(&self.0, &mut families)?;
        encode_output(&self.0, &mut families)?;
        encode_system(&mut families)
    }
}

/// Writes families of metrics: a name, a help text, a type and samples. In OpenMetrics the unit is
/// stated, too; base units only (seconds, bytes).
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Families<'_, '_> {
    /// Begins a family. The name of a family with a unit ends with the unit, which is not given
    /// again.
    fn begin(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        of: MetricType,
        encode: impl FnOnce(MetricEncoder<'_>) -> Result<(), fmt::Error>,
    ) -> Result<(), fmt::Error> {
        encode(self.0.encode_descriptor(name, help, unit, of)?)
    }

    /// Writes a gauge without labels.
    fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> Result<(), fmt::Error> {
        self.begin(name, unit, help, MetricType::Gauge, |mut metric| metric.encode_gauge(&value))
    }

    /// Writes a counter without labels. Its name gets the suffix `_total`.
    fn counter(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> Result<(), fmt::Error> {
        self.begin(name, unit, help, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// Writes a counter with a value for each set of labels.
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), fmt::Error> {
        self.begin(name, unit, help, MetricType::Counter, |mut family| {
            values.into_iter().try_for_each(|(labels, value)| {
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
            })
        })
    }
}

/// Encodes the facts of the job, what its workers have done, and its journals.
fn encode_job(meters: &Meters, families: &mut Families<'_, '_>) -> Result<(), fmt::Error> {
    let facts = meters.facts();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    let help = "The release that runs";
    families.begin("wordtide_build", None, help, MetricType::Info, |mut metric| {
        metric.encode_info(&version.as_slice())
    })?;
    let interval = facts.interval_ms as f64 / 1e3;
    families.gauge("wordtide_interval", Some(&Unit::Seconds), "Length of an epoch", interval)?;
    let words: u64 = meters.workers().iter().map(|worker| worker.words.get()).sum();
    families.counter("wordtide_words", None, "Words counted by the workers", words)?;
    let busy = meters
        .workers()
        .into_iter()
        .map(|worker| ([("worker", worker.index().to_string())], worker.busy().as_secs_f64()));
    let busy = busy.collect::<Vec<_>>();
    families.counters(
        "wordtide_worker_busy",
        Some(&Unit::Seconds),
        "Processor time that each worker has used",
        busy.iter().map(|(labels, seconds)| (labels.as_slice(), *seconds)),
    )?;
    let journal = meters.journal().figures();
    let bytes = Some(&Unit::Bytes);
    families.gauge("wordtide_journal", bytes, "Bytes of the journals on disk", journal.bytes)?;
    families.gauge(
        "wordtide_journal_unsynced",
        bytes,
        "Bytes of the journals that a loss of power would lose",
        journal.unsynced_bytes,
    )?;
    families.gauge(
        "wordtide_journal_max",
        bytes,
        "Limit of the journals, above which reading stops",
        journal.max_bytes,
    )
}

/// Encodes the figures of each source of this process. The label is the name of the source, as
/// messages have it.
fn encode_sources(meters: &Meters, families: &mut Families<'_, '_>) -> Result<(), fmt::Error> {
    let process = meters.facts().process;
    let sources = meters.sources();
    let labels = |meter: &SourceMeter| [("source", meter.facts().name.clone())];
    let own: Vec<_> = sources
        .iter()
        .filter(|(_, meter)| meter.facts().process == process)
        .map(|(_, meter)| (labels(meter), meter))
        .collect();
    // Lines may be counted by another process than the one that reads them.
    let is_counted =
        |meter: &SourceMeter| meter.facts().process == process || meter.lines.get() > 0;
    let counted: Vec<_> = sources
        .iter()
        .filter(|(_, meter)| is_counted(meter))
        .map(|(_, meter)| (labels(meter), meter.lines.get()))
        .collect();
    families.counters(
        "wordtide_source",
        Some(&Unit::Bytes),
        "Bytes read from each source",
        own.iter().map(|(labels, meter)| (labels.as_slice(), meter.bytes.get())),
    )?;
    families.counters(
        "wordtide_source_lines",
        None,
        "Lines of each source that workers have taken",
        counted.iter().map(|(labels, lines)| (labels.as_slice(), *lines)),
    )?;
    families.counters(
        "wordtide_source_blocked",
        Some(&Unit::Seconds),
        "Time in which each source was not read because nothing had room for its lines",
        own.iter()
            .map(|(labels, meter)| (labels.as_slice(), meter.blocked.elapsed().as_secs_f64())),
    )?;
    let help = "1 if lines can come from the source, else 0";
    families.begin("wordtide_source_connected", None, help, MetricType::Gauge, |mut family| {
        own.iter().try_for_each(|(labels, meter)| {
            let connected = u32::from(meter.is_connected());
            family.encode_family(&labels.as_slice())?.encode_gauge(&connected)
        })
    })
}

/// Encodes open, cut and committed epochs, and the time of their stages, as a histogram in seconds
/// whose buckets are [`STAGE_BOUNDS`].
fn encode_epochs(meters: &Meters, families: &mut Families<'_, '_>) -> Result<(), fmt::Error> {
    let (epochs, seconds) = (meters.epochs(), Some(&Unit::Seconds));
    let at = |epoch: Epoch| epoch as f64 / 1e3;
    families.gauge(
        "wordtide_epoch_open_timestamp",
        seconds,
        "End of the open epoch; 0 before the first",
        at(epochs.open()),
    )?;
    families.gauge(
        "wordtide_epoch_committed_timestamp",
        seconds,
        "End of the newest committed epoch; 0 before the first",
        at(epochs.newest_committed()),
    )?;
    families.gauge(
        "wordtide_epochs_in_flight",
        None,
        "Epochs that are cut and not committed",
        epochs.in_flight() as u64,
    )?;
    let distinct = epochs.last().map_or(0, |record| record.distinct);
    let help =
        "Rows of the newest committed epoch: of word counts, the distinct words; in process 0";
    families.gauge("wordtide_distinct_words", None, help, distinct)?;
    let help = "Time that each stage of an epoch took after its cut, in process 0";
    families.begin("wordtide_epoch_stage", seconds, help, MetricType::Histogram, |mut family| {
        Stage::ALL.into_iter().try_for_each(|stage| {
            let (sum, counts) = epochs.stage(stage).read();
            let bounds = STAGE_BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
            let labels = [("stage", stage.name())];
            let labels = labels.as_slice();
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
        })
    })
}

/// Encodes requests, retries and bytes of the output. Each pair of operation and outcome has a
/// sample from the start, so that a rate is known when the first request fails.
fn encode_output(meters: &Meters, families: &mut Families<'_, '_>) -> Result<(), fmt::Error> {
    let output = meters.output();
    families.gauge(
        "wordtide_output_available",
        None,
        "1 unless the output is known to be out of reach",
        u32::from(output.is_available()),
    )?;
    let all = OutputOp::ALL.into_iter().flat_map(|op| Outcome::ALL.map(|outcome| (op, outcome)));
    let requests: Vec<_> = all
        .map(|(op, outcome)| {
            let labels = [("op", op.name()), ("outcome", outcome.name())];
            (labels, output.requests(op, outcome))
        })
        .collect();
    families.counters(
        "wordtide_output_requests",
        None,
        "Requests to the output, by kind and outcome",
        requests.iter().map(|(labels, requests)| (labels.as_slice(), *requests)),
    )?;
    let help = "Requests to the output that were repeated";
    families.counter("wordtide_output_retries", None, help, output.retries.get())?;
    let help = "Bytes stored in the output";
    families.counter("wordtide_output", Some(&Unit::Bytes), help, output.bytes.get())
}

/// Encodes processor time, memory and open files of this process, under the names that client
/// libraries of Prometheus give them.
fn encode_system(families: &mut Families<'_, '_>) -> Result<(), fmt::Error> {
    let figures = system::read();
    let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
    families.counter("process_cpu", seconds, "User and system time", figures.cpu_seconds)?;
    let help = "Resident memory";
    families.gauge("process_resident_memory", bytes, help, figures.resident_bytes)?;
    let help = "Virtual memory";
    families.gauge("process_virtual_memory", bytes, help, figures.virtual_bytes)?;
    let help = "Unix time of the start of the process";
    families.gauge("process_start_time", seconds, help, figures.start_seconds)?;
    families.gauge("process_open_fds", None, "Open files", figures.open_files)?;
    families.gauge("process_max_fds", None, "Limit of open files", figures.open_files_max)?;
    families.gauge("process_threads", None, "Threads of the process", figures.threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILIES: [&str; 21] = [
        "wordtide_build_info",
        "wordtide_interval_seconds",
        "wordtide_words_total",
        "wordtide_worker_busy_seconds_total",
        "wordtide_journal_bytes",
        "wordtide_journal_unsynced_bytes",
        "wordtide_journal_max_bytes",
        "wordtide_source_bytes_total",
        "wordtide_source_lines_total",
        "wordtide_source_blocked_seconds_total",
        "wordtide_source_connected",
        "wordtide_epoch_open_timestamp_seconds",
        "wordtide_epoch_committed_timestamp_seconds",
        "wordtide_epochs_in_flight",
        "wordtide_distinct_words",
        "wordtide_epoch_stage_seconds",
        "wordtide_output_available",
        "wordtide_output_requests_total",
        "wordtide_output_retries_total",
        "wordtide_output_bytes_total",
        "process_resident_memory_bytes",
    ];

    #[test]
    fn families_are_there_from_the_start() {
        let text = encode(&Meters::default(), MetricsFormat::Prometheus).expect("text");
        for family in FAMILIES {
            for line in ["# HELP", "# TYPE"] {
                assert!(text.contains(&format!("{line} {family} ")), "{line} {family}\n{text}");
            }
        }
        let names = text.lines().filter(|line| !line.starts_with('#'));
        for name in names {
            assert!(name.starts_with("wordtide_") || name.starts_with("process_"), "{name}");
        }
        let requests = "wordtide_output_requests_total{op=\"create\",outcome=\"ok\"} 0";
        assert!(text.contains(requests), "{text}");
    }

    #[test]
    fn open_metrics_ends_with_its_mark() {
        let text = encode(&Meters::default(), MetricsFormat::OpenMetrics).expect("text");
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# UNIT wordtide_epoch_stage_seconds seconds"), "{text}");
        assert!(
            text.contains("wordtide_epoch_stage_seconds_bucket{le=\"+Inf\",stage=\"total\"} 0"),
            "{text}"
        );
    }

    #[test]
    fn open_metrics_is_sent_when_asked_for() {
        let of = |accept: &'static str| MetricsFormat::accepted([accept].into_iter());
        assert_eq!(of(""), MetricsFormat::Prometheus);
        assert_eq!(of("*/*"), MetricsFormat::Prometheus);
        assert_eq!(of("text/plain"), MetricsFormat::Prometheus);
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1";
        assert_eq!(of(prometheus), MetricsFormat::OpenMetrics);
        assert_eq!(of("Application/OpenMetrics-Text"), MetricsFormat::OpenMetrics);
        assert_eq!(
            of("text/plain;q=0.9, application/openmetrics-text;q=0.1"),
            MetricsFormat::Prometheus
        );
        assert_eq!(of("application/openmetrics-text;q=0"), MetricsFormat::Prometheus);
    }
}
