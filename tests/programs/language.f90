! Allocates on the heap, and prints through its own runtime library.
program language
  implicit none
  integer, allocatable :: numbers(:)
  integer :: i
  allocate (numbers(10000))
  numbers = [(i * i, i = 1, 10000)]
  print *, sum(mod(numbers, 97)), command_argument_count()
  deallocate (numbers)
  stop 5
end program language
