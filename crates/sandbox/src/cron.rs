//! When a CronJob's schedule is due: five fields, names, steps, ranges and the usual abbreviations, in a time zone.

use jiff::{Timestamp, ToSpan, civil, tz::TimeZone};

/// Why a schedule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field:?} in the schedule {schedule:?} is not understood")]
pub(crate) struct ScheduleError {
    schedule: String,
    field: String,
}

/// A parsed schedule.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day of the month or of the week was left open: then both must hold, else either is enough.
    open_day: bool,
    zone: TimeZone,
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that is not due within so many days (the 29th of February is within eight years) never is.
const HORIZON: i32 = 9 * 366;
/// More missed times than this are not counted one by one.
pub(crate) const MANY: usize = 100;

impl Schedule {
    pub(crate) fn parse(schedule: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let wrong = |field: &str| ScheduleError { schedule: schedule.to_owned(), field: field.to_owned() };
        let zone = match zone {
            Some(name) => TimeZone::get(name).map_err(|_| wrong(name))?,
            None => TimeZone::UTC,
        };
        let fields = match schedule.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return Err(wrong(schedule)) };
        let field =
            |text: &str, first, last, names| bits(text, first, last, names).ok_or_else(|| wrong(text));
        let weekday_bits = field(weekdays, 0, 7, (WEEKDAYS, 0))?;
        let open = |text: &str| text.starts_with('*') || text.starts_with('?');
        Ok(Self {
            minutes: field(minutes, 0, 59, (&[], 0))?,
            hours: field(hours, 0, 23, (&[], 0))?,
            days: field(days, 1, 31, (&[], 0))?,
            months: field(months, 1, 12, (MONTHS, 1))?,
            // Sunday is both 0 and 7.
            weekdays: weekday_bits | (weekday_bits >> 7 & 1),
            open_day: open(days) || open(weekdays),
            zone,
        })
    }

    fn is_day(&self, date: civil::Date) -> bool {
        let has = |bits: u64, bit: i8| bits >> bit & 1 == 1;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.open_day { day && weekday } else { day || weekday }
    }

    /// The first time after `after`.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let local = after.to_zoned(self.zone.clone()).datetime();
        let mut date = local.date();
        for _ in 0..HORIZON {
            if self.is_day(date) {
                for hour in (0..24i8).filter(|hour| self.hours >> hour & 1 == 1) {
                    for minute in (0..60i8).filter(|minute| self.minutes >> minute & 1 == 1) {
                        // What a change to summer time leaves out happens right after it.
                        let at = date.at(hour, minute, 0, 0).to_zoned(self.zone.clone()).ok()?.timestamp();
                        if at > after {
                            return Some(at);
                        }
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    /// The last time in `(after, until]`, and how many there were, of which only some are counted if they are many.
    pub(crate) fn last_due(&self, after: Timestamp, until: Timestamp) -> Option<(Timestamp, usize)> {
        let mut due = self.next(after).filter(|at| *at <= until)?;
        let mut count = 1;
        let near = until.checked_sub(2.hours()).unwrap_or(until);
        while let Some(next) = self.next(due).filter(|next| *next <= until) {
            due = next;
            count += 1;
            // Too many to walk through all: go on close to the end, where frequent ones still are.
            if count == MANY
                && let Some(late) = self.next(near.max(due)).filter(|at| *at <= until)
            {
                due = late;
            }
        }
        Some((due, count))
    }
}

/// The numbers a field names, as bits.
fn bits(field: &str, first: u32, last: u32, (names, base): (&[&str], u32)) -> Option<u64> {
    let number = |text: &str| -> Option<u32> {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower).and_then(|at| u32::try_from(at).ok());
        named
            .map(|at| at + base)
            .or_else(|| text.parse().ok())
            .filter(|number| (first..=last).contains(number))
    };
    let mut out = 0u64;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (from, to) = match range {
            "*" | "?" => (first, if last == 7 { 6 } else { last }),
            _ => match range.split_once('-') {
                Some((from, to)) => (number(from)?, number(to)?),
                None => (number(range)?, if step.is_some() { last } else { number(range)? }),
            },
        };
        if from > to {
            return None;
        }
        out |= (from..=to).step_by(step.unwrap_or(1) as usize).fold(0, |bits, number| bits | 1 << number);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: Option<&str>, after: &str) -> String {
        Schedule::parse(schedule, zone).unwrap().next(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn the_next_time_is_found() {
        let friday = "2026-01-02T10:03:20Z";
        assert_eq!(next("*/15 * * * *", None, friday), "2026-01-02T10:15:00Z");
        assert_eq!(next("0 9-17 * * mon-fri", None, "2026-01-02T17:30:00Z"), "2026-01-05T09:00:00Z");
        assert_eq!(next("0 0 29 2 *", None, friday), "2028-02-29T00:00:00Z");
        assert_eq!(next("@monthly", None, friday), "2026-02-01T00:00:00Z");
        assert_eq!(
            next("0 0 13 * 5", None, friday),
            "2026-01-09T00:00:00Z",
            "either day is enough when both are said"
        );
        assert_eq!(next("0 0 * * 7", None, friday), "2026-01-04T00:00:00Z");
        assert_eq!(next("30 8 * * *", Some("Asia/Tokyo"), friday), "2026-01-02T23:30:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_and_what_never_comes_is_none() {
        for wrong in ["", "* * * *", "60 * * * *", "a * * * *", "5-1 * * * *", "*/0 * * * *", "* * * * 8"] {
            assert!(Schedule::parse(wrong, None).is_err(), "{wrong}");
        }
        assert!(Schedule::parse("* * * * *", Some("Nowhere/City")).is_err());
        assert_eq!(
            Schedule::parse("0 0 31 2 *", None).unwrap().next("2026-01-01T00:00:00Z".parse().unwrap()),
            None
        );
    }

    #[test]
    fn missed_times_are_counted_and_the_last_one_taken() {
        let schedule = Schedule::parse("0 * * * *", None).unwrap();
        let at = |text: &str| text.parse().unwrap();
        let due = schedule.last_due(at("2026-01-01T00:30:00Z"), at("2026-01-01T03:10:00Z"));
        assert_eq!(due, Some((at("2026-01-01T03:00:00Z"), 3)));
        assert_eq!(schedule.last_due(at("2026-01-01T03:00:00Z"), at("2026-01-01T03:10:00Z")), None);
        let (last, count) =
            schedule.last_due(at("2020-01-01T00:00:00Z"), at("2026-01-01T03:10:00Z")).unwrap();
        assert_eq!((last, count > 100), (at("2026-01-01T03:00:00Z"), true));
    }
}
