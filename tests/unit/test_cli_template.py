"""Templates: Go's results, Docker's functions, clear errors."""

import pytest

from atoll.cli.template import Template, TemplateError

VALUE = {
    "Name": "/reef",
    "Id": "0123456789ab",
    "Count": 3,
    "Ratio": 1.5,
    "Running": True,
    "Nothing": None,
    "State": {"Status": "running", "Pid": 42},
    "Labels": {"b": "2", "a": "1"},
    "Args": ["x", "y"],
    "Networks": {"one": {"IP": "10.0.0.1"}, "two": {"IP": "10.0.0.2"}},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "/reef"),
        ("a{{ .State.Status }}b", "arunningb"),
        ("{{.Count}} {{.Ratio}} {{.Running}} {{.Nothing}}", "3 1.5 true <no value>"),
        ("{{.Labels}} {{.Args}}", "map[a:1 b:2] [x y]"),
        ("{{json .State}}", '{"Status":"running","Pid":42}'),
        ("{{json .}}", None),
        ("{{.Labels | json}}", '{"b":"2","a":"1"}'),
        ('{{index .Labels "a"}}', "1"),
        ('{{index .Labels "nope"}}', ""),
        ("{{index .Args 1}}", "y"),
        ('{{index .Networks "one" "IP"}}', "10.0.0.1"),
        ('{{(index .Networks "two").IP}}', "10.0.0.2"),
        ('{{join .Args ","}}', "x,y"),
        ('{{join (split "a b" " ") "-"}}', "a-b"),
        ("{{upper .Name}}{{lower .Name}}{{title .State.Status}}", "/REEF/reefRunning"),
        ("{{len .Args}} {{len .Name}}", "2 5"),
        ("{{slice .Id 0 4}}", "0123"),
        ('{{printf "%s=%d %v %q" .Name .Count .Args "z"}}', '/reef=3 [x y] "z"'),
        ('{{println "a" 1}}', "a 1\n"),
        ("{{if .Running}}yes{{else}}no{{end}}", "yes"),
        ("{{if not .Running}}yes{{else if eq .Count 3}}three{{else}}no{{end}}", "three"),
        ("{{if and .Running (gt .Count 2)}}both{{end}}", "both"),
        ("{{with .State}}{{.Pid}}{{end}}", "42"),
        ("{{with .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{range .Args}}[{{.}}]{{end}}", "[x][y]"),
        ("{{range $i, $x := .Args}}{{$i}}={{$x}};{{end}}", "0=x;1=y;"),
        ("{{range $k, $v := .Networks}}{{$k}}:{{$v.IP}} {{end}}", "one:10.0.0.1 two:10.0.0.2 "),
        ("{{range .Nothing}}x{{else}}empty{{end}}", "empty"),
        ("{{range .Args}}{{$.Name}}{{end}}", "/reef/reef"),
        ("{{$x := .Count}}{{$x}}", "3"),
        ("a {{- .Count -}} b", "a3b"),
        ("{{/* nothing to see */}}x", "x"),
        ('{{"}}"}}{{`{{`}}', "}}{{"),
    ],
)
def test_a_template_says_what_it_says_in_go(template: str, text: str | None) -> None:
    rendered = Template(template).render(VALUE)
    assert rendered == text if text is not None else rendered.startswith("{")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Name", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{nope .Name}}", 'function "nope" not defined'),
        ("{{if .Running}}x", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{.Name .Id}}", "can't give argument to non-function"),
        ('{{"open}}', "unterminated quoted string"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{.Name)}}", "unexpected ')'"),
        ("{{$nope}}", 'undefined variable "$nope"'),
        ("{{.Name | }}", "missing value for command"),
        ("{{%}}", "unexpected '%'"),
    ],
)
def test_a_template_that_is_wrong_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(VALUE)
    assert message in str(caught.value)


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{.State.Nope}}", "{{if .Nope}}{{end}}", "{{json .Nope}}"])
def test_a_field_that_does_not_exist_is_an_error_that_names_those_that_do(template: str) -> None:
    with pytest.raises(TemplateError, match=r'there is no field "Nope" \(there are: .*(Name|Pid)'):
        Template(template).render(VALUE)


@pytest.mark.parametrize(
    "template", ["{{.Name.First}}", "{{index .Args 7}}", "{{len .Count}}", "{{range .Count}}{{end}}"]
)
def test_what_a_value_cannot_do_is_an_error(template: str) -> None:
    with pytest.raises(TemplateError, match="failed to execute template"):
        Template(template).render(VALUE)


def test_the_fields_that_a_template_names_are_known_before_there_is_a_value() -> None:
    template = Template('{{if .A}}{{.B.C}}{{end}}{{range .D}}{{$.E}}{{end}}{{json (index .F "x")}}')
    assert template.fields() == {"A", "B", "D", "E", "F"}
