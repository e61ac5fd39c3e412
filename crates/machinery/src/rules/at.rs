//! The small vocabulary that rules are written in: a value at its path, and what was found wrong.

use serde_json::Value;

use crate::{names, quantity::Quantity, status::Cause};

/// A value and where it stands. An absent value is `null`.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// The field `name`; `a.b` goes down twice.
    pub(super) fn get(&self, name: &str) -> Self {
        let value = name.split('.').fold(self.value, |value, part| &value[part]);
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value, path }
    }

    /// The member `key` of a map.
    pub(super) fn key(&self, key: &str) -> Self {
        Self { value: &self.value[key], path: format!("{}[{key}]", self.path) }
    }

    /// The items of a list.
    pub(super) fn each(&self) -> impl Iterator<Item = Self> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(move |(index, value)| At { value, path: format!("{path}[{index}]") })
    }

    /// The members of a map.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let path = self.path.clone();
        let members = self.value.as_object().into_iter().flatten();
        members.map(move |(key, value)| (key.as_str(), At { value, path: format!("{path}[{key}]") }))
    }

    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub(super) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    /// Whether there is a value: a pointer that is not nil, in Go.
    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether the value is absent or zero.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Number(number) => number.as_i64() == Some(0),
            Value::Bool(flag) => !flag,
        }
    }

    pub(super) fn quantity(&self) -> Option<Quantity> {
        Quantity::from_value(self.value).ok()
    }

    /// The value as a message shows it: absent text is empty.
    fn shown_text(&self) -> Value {
        if self.is_set() { self.value.clone() } else { "".into() }
    }
}

/// What was found wrong.
#[derive(Default)]
pub(super) struct Found {
    causes: Vec<Cause>,
}

impl Found {
    pub(super) fn take(&mut self) -> Vec<Cause> {
        std::mem::take(&mut self.causes)
    }

    pub(super) fn add(&mut self, cause: Cause) {
        self.causes.push(cause);
    }

    pub(super) fn extend(&mut self, causes: impl IntoIterator<Item = Cause>) {
        self.causes.extend(causes);
    }

    pub(super) fn count(&self) -> usize {
        self.causes.len()
    }

    pub(super) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.add(Cause::required(&at.path, detail));
    }

    /// Requires a value that is not empty; says whether it is there.
    pub(super) fn require(&mut self, at: &At<'_>) -> bool {
        if at.is_empty() {
            self.required(at, "");
        }
        !at.is_empty()
    }

    pub(super) fn invalid(&mut self, at: &At<'_>, detail: &str) {
        self.add(Cause::invalid(&at.path, at.value.clone(), detail));
    }

    /// A finding about a thing that is not the value at that place.
    pub(super) fn invalid_value(&mut self, at: &At<'_>, value: impl Into<Value>, detail: &str) {
        self.add(Cause::invalid(&at.path, value, detail));
    }

    pub(super) fn forbidden(&mut self, at: &At<'_>, detail: &str) {
        self.add(Cause::forbidden(&at.path, detail));
    }

    pub(super) fn duplicate(&mut self, at: &At<'_>) {
        self.add(Cause::duplicate(&at.path, at.value.clone()));
    }

    pub(super) fn not_supported(&mut self, at: &At<'_>, supported: &[&str]) {
        self.add(Cause::not_supported(&at.path, at.shown_text(), supported));
    }

    /// A value that is there is one of these.
    pub(super) fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.is_set() && !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// A value that is required, and one of these.
    pub(super) fn require_one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if self.require(at) {
            self.one_of(at, supported);
        }
    }

    /// A text that is there has a form.
    pub(super) fn form(&mut self, at: &At<'_>, form: fn(&str) -> Vec<String>) {
        if !at.is_empty() {
            self.form_of(at, at.text(), form);
        }
    }

    /// A text that is required, and has a form.
    pub(super) fn require_form(&mut self, at: &At<'_>, form: fn(&str) -> Vec<String>) {
        if self.require(at) {
            self.form_of(at, at.text(), form);
        }
    }

    /// A text that stands for the value has a form.
    pub(super) fn form_of(&mut self, at: &At<'_>, text: &str, form: fn(&str) -> Vec<String>) {
        for problem in form(text) {
            self.invalid_value(at, text, &problem);
        }
    }

    pub(super) fn non_negative(&mut self, at: &At<'_>) {
        if at.int().is_some_and(|number| number < 0) {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// The fields are not negative.
    pub(super) fn non_negatives(&mut self, at: &At<'_>, fields: &[&str]) {
        fields.iter().for_each(|field| self.non_negative(&at.get(field)));
    }

    /// A number that is there lies between the two.
    pub(super) fn between(&mut self, at: &At<'_>, least: i64, most: i64) {
        if at.int().is_some_and(|number| !(least..=most).contains(&number)) {
            self.invalid(at, &format!("must be between {least} and {most}, inclusive"));
        }
    }

    pub(super) fn port(&mut self, at: &At<'_>) {
        let zero = Value::from(0);
        let number = if at.is_set() { at.value } else { &zero };
        self.between(&At { value: number, path: at.path.clone() }, 1, 65_535);
    }

    /// A port by number or by name.
    pub(super) fn port_or_name(&mut self, at: &At<'_>) {
        match at.value {
            Value::String(name) => self.form_of(at, name, port_name),
            _ => self.port(at),
        }
    }

    /// A number, or a percentage of at most 100.
    pub(super) fn int_or_percent(&mut self, at: &At<'_>) {
        const FORM: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
        match at.value {
            Value::String(text) => {
                let digits =
                    text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
                if digits.is_none() {
                    self.invalid(at, FORM);
                }
            }
            _ => self.non_negative(at),
        }
    }

    pub(super) fn at_most_100_percent(&mut self, at: &At<'_>) {
        let percent = at.text().strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
        if percent.is_some_and(|percent| percent > 100) {
            self.invalid(at, "must not be greater than 100%");
        }
    }

    /// The fields are what they were.
    pub(super) fn immutable(&mut self, new: &At<'_>, old: Option<&At<'_>>, fields: &[&str]) {
        let Some(old) = old else { return };
        for field in fields {
            let now = new.get(field);
            if now.value != old.get(field).value {
                self.invalid(&now, "field is immutable");
            }
        }
    }

    pub(super) fn ip(&mut self, at: &At<'_>) {
        if at.text().parse::<std::net::IpAddr>().is_err() {
            self.invalid(at, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }

    pub(super) fn cidr(&mut self, at: &At<'_>) {
        if parse_cidr(at.text()).is_none() {
            self.invalid(at, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }

    pub(super) fn label_value(&mut self, at: &At<'_>) {
        self.form(at, names::label_value);
    }
}

/// An address with the length of its prefix.
pub(super) fn parse_cidr(text: &str) -> Option<(u128, u32)> {
    let (address, length) = text.split_once('/')?;
    let length: u32 = length.parse().ok()?;
    match address.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(v4) if length <= 32 => Some((u128::from(u32::from(v4)) << 96, length)),
        std::net::IpAddr::V6(v6) if length <= 128 => Some((u128::from(v6), length)),
        _ => None,
    }
}

/// The name of a port (`IsValidPortName`).
pub(super) fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |wrong: bool, problem: &str| {
        if wrong {
            problems.push(problem.to_owned());
        }
    };
    say(name.len() > 15, "must be no more than 15 characters");
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    say(!name.bytes().all(allowed), "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    say(!name.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    say(name.contains("--"), "must not contain consecutive hyphens");
    say(name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen");
    problems
}

/// The name of an environment variable (`IsRelaxedEnvVarName`).
pub(super) fn environment_name(name: &str) -> Vec<String> {
    match name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        true => Vec::new(),
        false => vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()],
    }
}

/// A key of a ConfigMap or Secret (`IsConfigMapKey`).
pub(super) fn config_key(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if key.len() > names::MAX_SUBDOMAIN {
        problems.push("must be no more than 253 characters".to_owned());
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        problems.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned());
    }
    match key {
        "." | ".." => problems.push(format!("must not be '{key}'")),
        key if key.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}
