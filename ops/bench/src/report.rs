//! What was measured, and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

/// A value over rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stat {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Stat {
    /// Of the values of rounds; of none, zero.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Self {
            median,
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The figure is at most so many floors.
    FloorsAtMost(f64),
    /// The figure is at least so many floors.
    FloorsAtLeast(f64),
    /// The figure is at most this.
    AtMost(f64),
    /// The figure is at least this.
    AtLeast(f64),
}

impl Target {
    fn is_met(self, figure: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::FloorsAtMost(bound) => Some(ratio? <= bound),
            Self::FloorsAtLeast(bound) => Some(ratio? >= bound),
            Self::AtMost(bound) => Some(figure <= bound),
            Self::AtLeast(bound) => Some(figure >= bound),
        }
    }

    fn shown(self) -> String {
        match self {
            Self::FloorsAtMost(bound) => format!("<= {} x", number(bound)),
            Self::FloorsAtLeast(bound) => format!(">= {} x", number(bound)),
            Self::AtMost(bound) => format!("<= {}", number(bound)),
            Self::AtLeast(bound) => format!(">= {}", number(bound)),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which measurement it belongs to.
    pub row: &'static str,
    /// What it is.
    pub what: String,
    /// In which unit.
    pub unit: &'static str,
    /// It.
    pub figure: Stat,
    /// What the floor is.
    pub floor_is: Option<&'static str>,
    /// The floor, measured in the same rounds.
    pub floor: Option<Stat>,
    /// The figure over its floor, round by round.
    pub ratio: Option<Stat>,
    /// What is asked for.
    pub target: Option<Target>,
    /// Whether the median meets it.
    pub met: Option<bool>,
    /// Rounds.
    pub rounds: usize,
}

impl Figure {
    /// One that stands alone.
    #[must_use]
    pub fn new(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        rounds: &[f64],
    ) -> Self {
        Self {
            row,
            what: what.into(),
            unit,
            figure: Stat::of(rounds),
            floor_is: None,
            floor: None,
            ratio: None,
            target: None,
            met: None,
            rounds: rounds.len(),
        }
    }

    /// Beside a floor of the same rounds.
    #[must_use]
    pub fn over(mut self, rounds: &[f64], floor_is: &'static str, floors: &[f64]) -> Self {
        let ratios: Vec<f64> = rounds
            .iter()
            .zip(floors)
            .filter(|(_, floor)| **floor > 0.0)
            .map(|(figure, floor)| figure / floor)
            .collect();
        self.floor_is = Some(floor_is);
        self.floor = Some(Stat::of(floors));
        self.ratio = Some(Stat::of(&ratios));
        self
    }

    /// With what is asked for.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.met = target.is_met(self.figure.median, self.ratio.map(|r| r.median));
        self.target = Some(target);
        self
    }
}

/// Everything that a run measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Processors that everything shares.
    pub processors: usize,
    /// Lines of the table.
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub failures: Vec<Failure>,
}

/// A row that came to nothing.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Which.
    pub row: String,
    /// Why.
    pub why: String,
}

impl Report {
    /// As a table in Markdown, which is read in a terminal as well.
    #[must_use]
    pub fn markdown(&self) -> String {
        let head = [
            "row", "what", "unit", "figure", "floor", "ratio", "target", "met",
        ];
        let mut rows: Vec<[String; 8]> = vec![head.map(str::to_owned)];
        for f in &self.figures {
            let stat = |stat: &Stat| {
                if f.rounds > 1 {
                    format!(
                        "{} ({} to {})",
                        number(stat.median),
                        number(stat.min),
                        number(stat.max)
                    )
                } else {
                    number(stat.median)
                }
            };
            let floor = f.floor.as_ref().map_or_else(String::new, |floor| {
                format!("{} {}", f.floor_is.unwrap_or(""), stat(floor))
            });
            rows.push([
                f.row.to_owned(),
                f.what.clone(),
                f.unit.to_owned(),
                stat(&f.figure),
                floor,
                f.ratio.as_ref().map_or_else(String::new, stat),
                f.target.map_or_else(String::new, Target::shown),
                match f.met {
                    None => String::new(),
                    Some(true) => "yes".into(),
                    Some(false) => "NO".into(),
                },
            ]);
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|column| rows.iter().map(|r| r[column].len()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (n, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
            if n == 0 {
                for width in &widths {
                    let _ = write!(text, "|{}", "-".repeat(width + 2));
                }
                text.push_str("|\n");
            }
        }
        for failure in &self.failures {
            let _ = write!(
                text,
                "\n{} was not measured: {}\n",
                failure.row, failure.why
            );
        }
        text
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    let size = value.abs();
    let (digits, value) = match size {
        _ if size >= 1_000.0 => (0, value),
        _ if size >= 100.0 => (0, value),
        _ if size >= 10.0 => (1, value),
        _ => (2, value),
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() {
        format!("{sign}{grouped}")
    } else {
        format!("{sign}{grouped}.{rest}")
    }
}
