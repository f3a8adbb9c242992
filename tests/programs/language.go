// C's heap from several goroutines. os.Exit would not run what C has to do at its end.
package main

/*
#include <stdlib.h>
#include <string.h>
static char *copy(const char *text) { return strcpy(malloc(12345), text); }
*/
import "C"

import (
	"fmt"
	"sync"
	"unsafe"
)

func main() {
	text := C.CString("from C")
	var group sync.WaitGroup
	lengths := make([]int, 8)
	for i := range lengths {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			copied := C.copy(text)
			lengths[i] = len(C.GoString(copied)) * i
			C.free(unsafe.Pointer(copied))
		}(i)
	}
	group.Wait()
	C.free(unsafe.Pointer(text))
	fmt.Println(lengths)
	C.exit(5)
}
