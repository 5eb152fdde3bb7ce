// Tool is the one program of the images that the tests make.
//
//	tool                     says which image it is and what it was given
//	tool touch FILE          makes an empty file
//	tool dial NET ADDRESS    says what it is told there; an ADDRESS may be that of $ADDRESS
//	tool count A B FILE      counts to A, waits for a file, goes on to B, and ends with code 3
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 5 && os.Args[1] == "count":
		count(number(os.Args[2]), number(os.Args[3]), os.Args[4])
	case len(os.Args) == 4 && os.Args[1] == "dial":
		conn, err := net.Dial(os.Args[2], os.ExpandEnv(os.Args[3]))
		if err == nil {
			_, err = io.Copy(os.Stdout, conn)
		}
		if err != nil {
			fail(err)
		}
		return
	case len(os.Args) == 3 && os.Args[1] == "touch":
		if err := os.WriteFile(os.Args[2], nil, 0o644); err != nil {
			fail(err)
		}
		return
	}
	tag, err := os.ReadFile("/tag")
	if err != nil {
		fail(err)
	}
	fmt.Printf("%s %q %q\n", tag, os.Args[1:], os.Environ())
}

func count(pause, to int, file string) {
	for i := range to {
		fmt.Println(i + 1)
		for i+1 == pause {
			if _, err := os.Stat(file); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	os.Exit(3)
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fail(err)
	}
	return n
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
