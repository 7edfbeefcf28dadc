//! Who asks: a driver or an operator.

use ev_contract::{
    ids::{DriverId, OperatorId},
    subjects::Subject,
};

/// Who asks. Central goes by the subject, never by what a payload says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A driver.
    Driver(DriverId),
    /// An operator.
    Operator(OperatorId),
}

impl Who {
    /// The subject on which this identity asks for `verb`.
    #[must_use]
    pub fn subject(&self, verb: &str) -> String {
        let verb = verb.to_owned();
        match self {
            Self::Driver(driver) => Subject::Driver {
                driver: driver.clone(),
                verb,
            },
            Self::Operator(operator) => Subject::Operator {
                operator: operator.clone(),
                verb,
            },
        }
        .to_string()
    }

    /// What the credential must have been enrolled as.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self {
            Self::Driver(_) => "driver",
            Self::Operator(_) => "operator",
        }
    }

    /// The id that answers are addressed to.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Driver(driver) => driver.as_str(),
            Self::Operator(operator) => operator.as_str(),
        }
    }

    /// The folder of this identity's requests. No driver id has a dot, so that an operator's
    /// folder is never a driver's.
    #[must_use]
    pub fn folder(&self) -> String {
        match self {
            Self::Driver(driver) => driver.to_string(),
            Self::Operator(operator) => format!("op.{operator}"),
        }
    }
}
