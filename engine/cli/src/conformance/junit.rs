//! The results in the form that build servers read.

use hetero_conformance::Outcome;

use crate::output::shown;

/// Returns the results of a device as JUnit XML.
pub(super) fn junit(device: &str, records: &[(String, Outcome)]) -> String {
    // XML has no escapes for control characters, so text is escaped before it becomes XML.
    let escaped =
        |text: &str| shown(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Unclaimed(None));
    let failures = records.iter().filter(|(_, outcome)| failed(outcome)).count();
    let skipped = records.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Unclaimed(Some(_)))).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"conformance {}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">\n",
        escaped(device),
        records.len()
    );
    for (name, outcome) in records {
        let class = name.split(' ').next().unwrap_or_default();
        text.push_str(&format!("  <testcase classname=\"{}\" name=\"{}\"", escaped(class), escaped(name)));
        text.push_str(&match outcome {
            Outcome::Passed(_) => "/>\n".to_owned(),
            Outcome::Unclaimed(Some(reason)) => format!("><skipped message=\"{}\"/></testcase>\n", escaped(reason)),
            Outcome::Unclaimed(None) => {
                "><failure message=\"is not claimed, and nobody says why\"/></testcase>\n".to_owned()
            }
            Outcome::Failed(reason) => format!("><failure message=\"{}\"/></testcase>\n", escaped(reason)),
        });
    }
    text.push_str("</testsuite>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_escape_what_xml_forbids() {
        let records = [
            ("Add <1>".into(), Outcome::Failed("a & \"b\"\x1b\n\u{ffff}".into())),
            ("Mul".into(), Outcome::Passed(0.0)),
            ("Div".into(), Outcome::Unclaimed(Some("no <divider>".into()))),
            ("Sub".into(), Outcome::Unclaimed(None)),
        ];
        let text = junit("cpu:0", &records);
        assert!(text.contains("tests=\"4\" failures=\"2\" skipped=\"1\""));
        assert!(text.contains("name=\"Mul\"/>"));
        assert!(text.contains("name=\"Div\"><skipped message=\"no &lt;divider&gt;\"/>"));
        assert!(text.contains("name=\"Sub\"><failure message="));
        assert!(
            text.contains("name=\"Add &lt;1&gt;\"><failure message=\"a &amp; &quot;b&quot;\\u{1b}\\n\\u{ffff}\"/>")
        );
    }
}
