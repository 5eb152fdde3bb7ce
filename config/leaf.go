package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// leaf decodes one text into a value.
func (d *decoder) leaf(p path, v reflect.Value, written any) {
	raw, ok := written.(string)
	if !ok {
		d.mismatch(p, v.Type(), written)
		return
	}
	from := d.settings.origin(p)
	text, err := d.resolve(raw, from, p[0] == "model_api")
	if err != nil {
		d.errorf(p, "%s", err)
		return
	}
	if v.Type() == secretType {
		d.secret(p, raw, from)
		v.SetString(text)
		return
	}
	switch err := setText(v, text); {
	case err == nil:
	case hasReference(raw): // what it stands for is never shown
		d.errorf(p, "what %s stands for is not %s", quote(raw), leafForm(v.Type()))
	default:
		d.errorf(p, "%s %s", quote(raw), err)
	}
}

// secret notes a secret that is written where it can be read.
func (d *decoder) secret(p path, raw string, from origin) {
	if raw == "" || hasReference(raw) {
		return
	}
	switch from.kind {
	case fromFile:
		d.warnf(p, "the secret itself is in the file: write ${env:NAME} or ${file:PATH} and keep it there")
	case fromFlag:
		d.errorf(p, "every user of this host can read a command line: give the secret as ${env:NAME} or ${file:PATH}")
	}
}

// setText sets v, of a leaf type, to what text says. The error goes on after
// the text: "is not …: write …".
func setText(v reflect.Value, text string) error {
	wrong := fmt.Errorf("is not %s", leafForm(v.Type()))
	if v.Type() == durationType {
		return setDuration(v, text)
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if u.UnmarshalText([]byte(text)) != nil {
			return wrong
		}
		return nil
	}
	return setBasic(v, text, wrong)
}

// setBasic sets a value of one of Go's own types.
func setBasic(v reflect.Value, text string, wrong error) error {
	text, plain := strings.TrimSpace(text), text
	switch v.Kind() {
	case reflect.String:
		v.SetString(plain)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return wrong
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return tooLarge(err, wrong)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return tooLarge(err, wrong)
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return tooLarge(err, wrong)
		}
		v.SetFloat(f)
	default:
		panic("config: no setting can have the type " + v.Type().String())
	}
	return nil
}

func tooLarge(err, wrong error) error {
	if errors.Is(err, strconv.ErrRange) {
		return errors.New("is too large a number")
	}
	return wrong
}

func setDuration(v reflect.Value, text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil && text != "0" {
		return fmt.Errorf("has no unit: write %sm for minutes, %ss for seconds", text, text)
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("is not %s", leafForm(durationType))
	}
	v.SetInt(int64(span))
	return nil
}

// leafForm says what values of a leaf type look like.
func leafForm(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration: write one such as 30s, 10m or 1h"
	case bytesType:
		return "a size: write a number with a unit, such as 512MiB or 1GiB"
	case levelType:
		return "a level: write debug, info, warn or error"
	case secretType:
		return "a secret: write ${env:NAME} or ${file:PATH}"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false: write one of the two"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number: write one such as 10"
	case reflect.Float32, reflect.Float64:
		return "a number: write one such as 0.5 or 2"
	case reflect.String:
		return "a single text"
	}
	return "a " + strings.ToLower(t.Name())
}
